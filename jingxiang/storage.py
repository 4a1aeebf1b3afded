"""What the store and its views do to disks: clone, copy, sync, and say plainly when one is full or closed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jingxiang import console
from jingxiang.digest import BLOCK_BYTES
from jingxiang.errors import JingxiangError
from jingxiang.language import tr

FICLONE = 0x40049409  # _IOW(0x94, 9, int) of linux/fs.h
READ_ONLY = 0o444
FULL = {errno.ENOSPC, errno.EDQUOT}
CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@dataclass(frozen=True)
class Tally:
    """How many files, and their bytes together."""

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.files + other.files, self.size_bytes + other.size_bytes)


NOTHING = Tally()


class StoreFull(JingxiangError):
    """A disk has no room for what should be written to it."""

    def __init__(self, folder: Path, needed_bytes: int, free_bytes: int) -> None:
        self.needed_bytes, self.free_bytes = needed_bytes, free_bytes
        needed, free = console.size(needed_bytes), console.size(free_bytes)
        super().__init__(
            tr("{folder}: the disk is full: {needed} needed, {free} free", folder=folder, needed=needed, free=free),
            hints=(tr("make room, or set JINGXIANG_STORE to a folder on a larger disk"),),
        )


class StoreClosed(JingxiangError):
    """A folder that may not be written: somebody else's, read-only, or not a folder."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            tr("{folder}: cannot be written: {reason}", folder=folder, reason=reason),
            hints=(tr("set JINGXIANG_STORE to a folder of your own"),),
        )


def below(folder: Path) -> Tally:
    """All files below a folder; none if it is not there."""
    total = NOTHING
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Tally(1, os.lstat(os.path.join(path, name)).st_size)  # noqa: PTH118 (tens of thousands)
    return total


@contextlib.contextmanager
def writing(folder: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn what the system says about a folder that cannot be written into `StoreFull` or `StoreClosed`.

    Only writes belong in it: a refused connection or an unreadable source would be blamed on the folder.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            there = next(each for each in (folder, *folder.parents) if each.exists())
            raise StoreFull(folder, needed_bytes, shutil.disk_usage(there).free) from error
        if error.errno in CLOSED:
            raise StoreClosed(folder, os.strerror(error.errno)) from error
        raise


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raise `StoreFull` unless the disk has room for so much more."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    if needed_bytes > free:
        raise StoreFull(folder, needed_bytes, free)


def clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Let an empty file share the blocks of another; False where the file system cannot (only a few can)."""
    try:
        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
    except OSError:  # whatever the reason is: the copy that follows works, or says what is wrong
        return False
    return True


def copy(source: BinaryIO, target: BinaryIO) -> str:
    """Clone or copy into an empty file, open for reading too; returns the SHA-256 of what is in it then."""
    digest = hashlib.sha256()
    cloned = clone(source, target)
    while block := (target if cloned else source).read(BLOCK_BYTES):
        digest.update(block)
        if not cloned:
            target.write(block)
    target.flush()
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
