"""app.provenance: what is written is read back, and nothing else is believed"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import provenance, video
from app.provenance import Provenance
from jingxiang import models as catalog

ROOT = Path(__file__).resolve().parent.parent
HASH = "ab" * 32
MADE = Provenance(
    "i2vgen-xl", ("ali-vilab/i2vgen-xl@39e1979ea27be737b0278c06755e321f2b4360d5",), HASH, 7,
    {"prompt": "一只猫 \"turns\"\n🐈", "preset": "fast", "width": 64, "guidance": 9.0, "quick": True},
)  # fmt: skip


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "out.mp4"
    video.write(np.zeros((4, 64, 64, 3), np.uint8), path, fps=8, made=MADE, producer="jingxiang")
    return path.read_bytes()


def test_it_names_model_revisions_picture_seed_settings_and_version() -> None:
    spec = catalog.load(ROOT / "app" / "models.toml").model("animatediff")
    made = provenance.of(spec, picture=HASH, seed=3, settings={"model": "animatediff", "seed": 3, "steps": 12})
    assert made.to_json() == {
        "made_by": "jingxiang 0.1.0",
        "model": "animatediff",
        "weights": [f"{part.repository}@{part.revision}" for part in spec.weights.parts] if spec.weights else [],
        "picture": HASH,
        "seed": 3,
        "settings": {"steps": 12},
    }
    assert len(made.weights) == 3
    smoke = catalog.load(ROOT / "app" / "models.toml").model("smoke")
    assert provenance.of(smoke, picture=HASH, seed=3, settings={}).weights == ("random, made by the app",)


def test_a_video_says_how_it_was_made(tmp_path: Path, mp4: bytes) -> None:
    path = tmp_path / "dropped.bin"
    path.write_bytes(mp4)
    assert provenance.read(path) == MADE
    assert set(provenance.fields(path)) == {"comment", "title", "AIGC", "encoder"}


def test_a_file_with_the_index_at_its_end_is_read_too(tmp_path: Path, mp4: bytes) -> None:
    start = mp4.index(b"moov") - 4
    end = start + int.from_bytes(mp4[start : start + 4], "big")
    path = tmp_path / "late.mp4"
    path.write_bytes(mp4[:start] + mp4[end:] + mp4[start:end])
    assert provenance.read(path) == MADE


def test_large_sizes_and_a_last_box_without_a_size_are_read_too(tmp_path: Path, mp4: bytes) -> None:
    start = mp4.index(b"moov") - 4
    end = start + int.from_bytes(mp4[start : start + 4], "big")
    path = tmp_path / "large.mp4"
    large = (1).to_bytes(4, "big") + b"free" + (24).to_bytes(8, "big") + bytes(8)
    path.write_bytes(large + bytes(4) + mp4[start + 4 : end])
    assert provenance.read(path) == MADE


def test_every_cut_file_is_none_or_the_same(tmp_path: Path, mp4: bytes) -> None:
    path = tmp_path / "cut.mp4"
    index_end = mp4.index(b"mdat")
    for length in [*range(0, index_end, 7), len(mp4) - 1]:
        path.write_bytes(mp4[:length])
        assert provenance.read(path) in (None, MADE)
    path.write_bytes(mp4[: index_end - 8])
    assert provenance.read(path) == MADE  # the pictures are not needed


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "out.mp4"


@given(st.integers(0, 2200), st.integers(0, 255))
def test_a_damaged_file_is_no_error(mp4: bytes, damaged: Path, place: int, byte: int) -> None:
    damaged.write_bytes(mp4[:place] + bytes([byte]) + mp4[place + 1 :])
    read = provenance.read(damaged)
    assert read is None or isinstance(read, Provenance)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", b"\x89PNG\r\n\x1a\n", b"#EXTM3U\nhttp://127.0.0.1:1/a.ts\n", bytes(100_000),
        b"\0\0\0\x08moov", b"\xff\xff\xff\xffmoov", b"\0\0\0\x01moov" + b"\xff" * 8, b"\0\0\0\0moov\0\0\0\0udta",
    ],
)  # fmt: skip
def test_other_files_are_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.mp4"
    path.write_bytes(data)
    assert provenance.read(path) is None


def test_what_is_no_file_is_none_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    for path in (tmp_path, tmp_path / "none.mp4", tmp_path / "pipe.mp4", tmp_path / "loop.mp4", Path("/dev/zero")):
        assert provenance.read(path) is None


def changed(**values: Any) -> str:
    return json.dumps({**MADE.to_json(), **values})


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", '"jingxiang"', "[" * 100_000, "{" * 2_000, '{"made_by": "jingxiang 0.1.0"}',
        changed(made_by="another 1.0"), changed(made_by=1), changed(model=""), changed(model=["x"]),
        changed(model="x" * 201), changed(weights="abc" * 50), changed(weights=[1]), changed(weights=["x"] * 65),
        changed(picture="x"), changed(picture=None), changed(picture="../../etc/passwd"),
        changed(seed=-1), changed(seed=1 << 32), changed(seed=True), changed(seed="7"), changed(seed=7.0),
        changed(settings=[]), changed(settings={"a": None}), changed(settings={"a": {"b": 1}}),
        changed(settings={"": 1}), changed(settings={str(number): 1 for number in range(65)}),
        changed(settings={"a": float("nan")}), changed(settings={"a": float("inf")}),
        changed(settings={"a": "\ud800"}), changed(settings={"prompt": "x" * (1 << 20)}),
    ],
)  # fmt: skip
def test_what_has_another_form_is_not_believed(text: str) -> None:
    assert provenance.parse(text) is None


def test_what_another_version_adds_does_no_harm() -> None:
    assert provenance.parse(changed(made_by="jingxiang 9.0", later={"a": [1]})) == replace(
        MADE, made_by="jingxiang 9.0"
    )


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"])), st.integers(), st.booleans(),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_any_settings_come_back(settings: dict[str, provenance.Setting]) -> None:
    made = replace(MADE, settings=settings)
    assert provenance.parse(provenance.text(made)) == made


def test_a_long_list_of_boxes_is_not_walked(tmp_path: Path, mp4: bytes) -> None:
    path = tmp_path / "many.mp4"
    path.write_bytes(b"\0\0\0\x08free" * 65 + mp4)
    assert provenance.read(path) is None
