"""app.video"""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from app import video


def moving_bar(count: int = 8, size: int = 64) -> video.Frames:
    frames = np.zeros((count, size, size, 3), np.uint8)
    for index in range(count):
        frames[index, :, index * 4 : index * 4 + 8] = (200, 40, 40)
    return frames


def test_the_file_is_h264_yuv420p_with_the_index_in_front(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    video.write(moving_bar(), path, fps=8, settings={})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames, float(stream.average_rate)) == (64, 64, 8, 8.0)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_the_pictures_are_those_that_were_given(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    frames = moving_bar()
    video.write(frames, path, fps=8, settings={})
    with av.open(str(path)) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert float(np.abs(decoded.astype(int) - frames).mean()) < 6  # what the halved colour planes cost at the edges


def test_settings_are_read_back_chinese_included(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    video.write(moving_bar(), path, fps=8, settings={"prompt": "一只猫", "seed": 7})
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["comment"]) == {"prompt": "一只猫", "seed": 7}


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    smooth = np.linspace(0, 255, 8 * 64 * 64 * 3).reshape(8, 64, 64, 3).astype(np.uint8)
    seen = set()
    for _ in range(20):
        video.write(smooth, path, fps=8, settings={})
        seen.add(path.read_bytes())
    assert len(seen) == 1


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        video.write(np.zeros((2, 64, 64, 7), np.uint8), tmp_path / "out.mp4", fps=8, settings={})
    assert list(tmp_path.iterdir()) == []
