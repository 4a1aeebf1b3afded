"""app.video"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from app import label, provenance, video
from app.files import CannotWrite
from app.provenance import Provenance

MADE = Provenance("smoke", (provenance.RANDOM,), "0" * 64, 7, {"prompt": "一只猫", "width": 64, "guidance": 9.0})


def moving_bar(count: int = 8, size: int = 64) -> video.Frames:
    frames = np.zeros((count, size, size, 3), np.uint8)
    for index in range(count):
        frames[index, :, index * 4 : index * 4 + 8] = (200, 40, 40)
    return frames


def noise(count: int, size: int) -> video.Frames:
    """What no encoder makes small."""
    return np.random.default_rng(0).integers(0, 255, (count, size, size, 3), dtype=np.uint8)


def write(frames: video.Frames, path: Path, **options: Any) -> None:
    video.write(frames, path, **{"fps": 8, "made": MADE, **options})


def decoded(path: Path) -> video.Frames:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_is_h264_yuv420p_with_the_index_in_front(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write(moving_bar(), path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames, float(stream.average_rate)) == (64, 64, 8, 8.0)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_the_pictures_are_those_that_were_given(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    frames = moving_bar()
    write(frames, path)
    assert float(np.abs(decoded(path).astype(int) - frames).mean()) < 6  # what the halved colour planes cost at edges


def test_the_file_and_the_one_beside_it_say_how_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write(moving_bar(), path)
    with av.open(str(path)) as container:
        told = container.metadata
    assert json.loads(told["comment"]) == json.loads((tmp_path / "out.json").read_text("utf-8")) == MADE.to_json()
    assert (told["title"], "AIGC" in told) == ("smoke, 7", False)
    assert names(tmp_path) == ["out.json", "out.mp4"]


def test_without_metadata_nothing_is_said_and_an_earlier_one_s_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write(moving_bar(), path)
    write(moving_bar(), path, metadata=False)
    with av.open(str(path)) as container:
        assert not {"comment", "title", "AIGC"} & set(container.metadata)
    assert "一只猫".encode() not in path.read_bytes()
    assert names(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("metadata", [True, False])
def test_the_implicit_label_is_a_switch_of_its_own(tmp_path: Path, metadata: bool) -> None:
    path = tmp_path / "out.mp4"
    write(moving_bar(), path, metadata=metadata, producer="001191110000")
    with av.open(str(path)) as container:
        told = container.metadata
    assert ("comment" in told) == metadata
    said = json.loads(told["AIGC"])
    assert list(said) == [
        "Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2",
    ]  # fmt: skip
    assert (said["Label"], said["ContentProducer"], said["ContentPropagator"]) == ("1", "001191110000", "001191110000")
    assert said["ProduceID"] == said["PropagateID"]


def test_each_video_has_a_number_of_its_own_and_equal_ones_the_same(tmp_path: Path) -> None:
    def number(frames: video.Frames, **options: Any) -> str:
        write(frames, tmp_path / "out.mp4", producer="jingxiang", **options)
        return str(json.loads(provenance.fields(tmp_path / "out.mp4")["AIGC"])["ProduceID"])

    found = [number(moving_bar()), number(moving_bar(7)), number(moving_bar(), labelled=True)]
    assert len(set(found)) == 3
    assert number(moving_bar()) == found[0]


def test_a_producer_that_the_standard_does_not_allow_is_refused(tmp_path: Path) -> None:
    for name in ("镜像", "a b", 'a"b', "a\\b"):
        with pytest.raises(provenance.BadProducer, match="should be of letters, digits and signs"):
            write(moving_bar(), tmp_path / "out.mp4", producer=name)
    assert names(tmp_path) == []


def test_the_visible_label_is_there_for_two_seconds(tmp_path: Path) -> None:
    path, frames = tmp_path / "out.mp4", np.full((20, 256, 256, 3), 255, np.uint8)
    write(frames, path, fps=8, labelled=True)
    left, top, right, bottom = label.box(256, 256)
    shown = decoded(path)
    inside = shown[:, top:bottom, left:right].astype(int)
    assert [bool(each) for each in inside.min(axis=(1, 2, 3)) < 120] == [True] * 16 + [False] * 4
    assert shown[:, bottom + 8 :].min() > 245


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    smooth = np.linspace(0, 255, 8 * 64 * 64 * 3).reshape(8, 64, 64, 3).astype(np.uint8)
    seen = set()
    for _ in range(20):
        write(smooth, path, labelled=True, producer="jingxiang")
        seen.add(path.read_bytes() + (tmp_path / "out.json").read_bytes())
    assert len(seen) == 1


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        write(np.zeros((2, 64, 64, 7), np.uint8), tmp_path / "out.mp4")
    assert names(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_what_was_there(mounted: Callable[[str, int], Path]) -> None:
    folder = mounted("tmpfs", 1)
    path = folder / "out.mp4"
    write(moving_bar(), path)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(CannotWrite) as caught:
        write(noise(24, 256), path)
    assert caught.value.message == "out.mp4: cannot be written: No space left on device"
    assert caught.value.hints == ("make room, or mount a larger disk",)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_the_json_of_somebody_else_is_not_replaced_or_removed(tmp_path: Path) -> None:
    path, beside = tmp_path / "out.mp4", tmp_path / "out.json"
    beside.write_text('{"mine": 1}')
    with pytest.raises(video.Taken) as caught:
        write(moving_bar(), path)
    assert caught.value.message == "out.json: is there already, and not of an earlier video"
    write(moving_bar(), path, metadata=False)
    assert beside.read_text() == '{"mine": 1}'
