"""app.files"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app import files
from app.files import CannotWrite, NoFile


def test_a_file_and_a_link_to_one_are_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        with files.opened(tmp_path / name) as file:
            assert file.read() == b"x"


def test_folders_pipes_and_devices_are_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(NoFile, match="is not a file"):
            files.opened(path)
    with pytest.raises(FileNotFoundError):
        files.opened(tmp_path / "none")


def test_all_are_written_with_nothing_beside_them(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    files.write({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


def test_a_disk_that_is_full_for_the_last_one_has_none(mounted: Callable[[str, int], Path]) -> None:
    folder = mounted("tmpfs", 1)
    with pytest.raises(CannotWrite, match=r"^b: cannot be written: No space left on device$"):
        files.write({folder / "a": bytes(100_000), folder / "b": bytes(2_000_000)})
    assert list(folder.iterdir()) == []
    files.write({folder / "a": bytes(900_000)})  # all of it is free again


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(CannotWrite, match=r"^a: cannot be written: Is a directory$") as caught:
        files.write({tmp_path / "a": b"1"})
    assert caught.value.hints == ()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
