"""jingxiang.disk"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jingxiang import disk


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Limits the size of the files that this process may write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_is_measured_and_nothing_stays_behind(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    found = disk.measure(folder, sample_bytes=8 << 20)
    assert (found.write_mb_s > 0, found.read_mb_s > 0) == (True, True)
    assert list(folder.iterdir()) == []
    # Others write to this disk too, so what is free now is only about what was free then.
    assert found.free_bytes == pytest.approx(shutil.disk_usage(folder).free, rel=0.2)


def test_the_whole_sample_is_written_and_removed_even_after_an_error(
    tmp_path: Path, largest_file: Callable[[int], None]
) -> None:
    largest_file(8 << 20)
    disk.measure(tmp_path, sample_bytes=8 << 20)
    with pytest.raises(OSError, match="File too large"):
        disk.measure(tmp_path, sample_bytes=12 << 20)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        disk.measure(tmp_path / "file")


def test_a_file_system_is_named_with_what_speaks_against_it(
    mounted: Callable[[str, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disk.filesystem(mounted("tmpfs", 10) / "not" / "yet") == "tmpfs"
    assert disk.caution("tmpfs") == "tmpfs: is in memory, and gone after a restart"
    place = tmp_path / "a share"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    (tmp_path / "mounts").write_text(f"/dev/a / ext4 rw 0 0\nhost:/x {escaped} nfs4 rw 0 0\n")
    monkeypatch.setattr(disk, "MOUNTS", tmp_path / "mounts")
    assert (disk.filesystem(place / "store"), disk.filesystem(tmp_path)) == ("nfs4", "ext4")
    assert disk.caution("nfs4") == "nfs4: is on another machine, across a network"
    assert disk.caution("ext4") == ""
    monkeypatch.setattr(disk, "MOUNTS", tmp_path / "none")
    assert disk.filesystem(place) == ""


def test_a_measurement_is_kept_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, store = tmp_path / "home", tmp_path / "store"
    speeds = iter([(300.0, 400.0), (700.0, 600.0), (10.0, 20.0)])
    monkeypatch.setattr(disk, "measure", lambda folder: disk.Disk(*next(speeds), 0))
    assert [disk.remembered(home, store) for _ in range(3)] == [300.0] * 3
    note = home / "disk.json"
    note.write_text(note.read_text().replace("[300.0, ", "[300.0, 1"))  # in a future that is not to be believed
    assert disk.remembered(home, store) == 600.0
    note.write_text("{")
    assert disk.remembered(home, store) == 10.0
