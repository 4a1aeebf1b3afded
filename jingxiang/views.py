"""Folders of names made from files of the store, without their bytes being there twice where the disk allows it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jingxiang import storage
from jingxiang.digest import BLOCK_BYTES
from jingxiang.errors import JingxiangError
from jingxiang.file_lock import held
from jingxiang.language import tr
from jingxiang.storage import NOTHING, Tally

# Another file system, too many links, a file system without links, or a file of another user (fs.protected_hardlinks).
NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES}

# What tells one entry from another: its mode, and for files size and time of last change (ns).
Look = tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """How the files came into a view. `kept`: they were there already, and nothing was done."""

    linked: Tally = NOTHING
    cloned: Tally = NOTHING
    copied: Tally = NOTHING
    kept: Tally = NOTHING


class BadName(JingxiangError):
    """A name that does not stay in the folder, or cannot be a file there."""

    def __init__(self, name: str) -> None:
        super().__init__(tr("{name}: not the name of a file below a folder", name=repr(name)))


class NotAFolder(JingxiangError):
    """Something else is where the view should be; it is left alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(tr("{path}: is there already and is not a folder", path=path))


def build(target: Path, sources: Mapping[str, Path]) -> View:
    """Make `target` hold exactly these files: relative POSIX names, each a hard link to its source, else a copy.

    It is made beside its place and moved there when complete; a folder that is there already is replaced, and left as
    it is if it is right. All files of a view are read-only: writing through a link would change the source.
    """
    folders = _folders(sources)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise NotAFolder(target)
    total = sum((Tally(1, path.stat().st_size) for path in sources.values()), NOTHING)
    lock = _beside(target, "lock")
    if _is_right(target, sources, folders) and not any(path.exists() for path in (lock, *_left_overs(target))):
        return View(kept=total)
    with storage.writing(target.parent, total.size_bytes):
        target.parent.mkdir(parents=True, exist_ok=True)
        with held(lock):
            try:
                _remove(target)  # what a process has left that was killed: its links would keep blobs for ever
                if _is_right(target, sources, folders):  # made by another process while we waited
                    return View(kept=total)
                return _build(target, sources, folders)
            finally:
                _remove(target)


def _build(target: Path, sources: Mapping[str, Path], folders: Iterable[str]) -> View:
    part, old = _left_overs(target)
    tallies = dict.fromkeys(("linked", "cloned", "copied"), NOTHING)
    part.mkdir()
    for name in sorted(folders):
        (part / name).mkdir()
    for name, source in sources.items():
        tallies[place(source, part / name)] += Tally(1, source.stat().st_size)
    if target.exists():
        target.rename(old)
    part.rename(target)
    return View(**tallies)


def place(source: Path | str, path: Path | str) -> str:
    """Link, else clone, else copy one file; returns which. Raises `FileExistsError`."""
    try:
        os.link(source, path)
        return "linked"
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
    source, path = Path(source), Path(path)
    with source.open("rb") as reading, path.open("xb") as writing:
        cloned = storage.clone(reading, writing)
        if not cloned:
            shutil.copyfileobj(reading, writing, BLOCK_BYTES)
    path.chmod(storage.READ_ONLY)
    # The time is how the next call knows it: the store gives each blob one of its own.
    os.utime(path, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    return "cloned" if cloned else "copied"


def _beside(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}.{role}")


def _left_overs(target: Path) -> tuple[Path, Path]:
    """Where a view is made, and where the one before it goes until it is removed."""
    return _beside(target, "part"), _beside(target, "old")


def _remove(target: Path) -> None:
    for path in _left_overs(target):
        shutil.rmtree(path, ignore_errors=True)


def _folders(names: Iterable[str]) -> set[str]:
    """The folders that files of such names lie in; raises `BadName` before anything is made."""
    files, folders = set(names), set()
    for name in sorted(files):
        parts = name.split("/")
        if "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
            raise BadName(name)
        folders |= {"/".join(parts[:count]) for count in range(1, len(parts))}
    if both := files & folders:
        raise BadName(min(both))
    return folders


def _is_right(target: Path, sources: Mapping[str, Path], folders: set[str]) -> bool:
    """Whether exactly these files and folders are there. Nothing is read: that is what `verify` is for."""
    if not target.is_dir():
        return False
    wanted: dict[str, Look | None] = {name: _look(path.stat()) for name, path in sources.items()}
    return dict(_entries(target)) == wanted | dict.fromkeys(folders)


def _entries(folder: Path, prefix: str = "") -> Iterator[tuple[str, Look | None]]:
    """Everything below a folder by its relative name; folders have no look."""
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield prefix + entry.name, None
                yield from _entries(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, _look(entry.stat(follow_symlinks=False))


def _look(found: os.stat_result) -> Look:
    return found.st_mode, found.st_size, found.st_mtime_ns
