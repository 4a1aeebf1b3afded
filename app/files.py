"""Files that come from or go to somebody else: opened only if they are files, and there only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from app.texts import tr
from jingxiang.errors import JingxiangError


class CannotWrite(JingxiangError):
    """A disk that is full, or a folder that is not ours. Nothing is left of what was begun."""

    def __init__(self, name: str, error: OSError) -> None:
        text = tr("{name}: cannot be written: {reason}", name=name, reason=error.strerror or error)
        super().__init__(text, hints=(tr("make room, or mount a larger disk"),) if _is_full(error) else ())


class NoFile(OSError):
    """A folder, a pipe or a device in a file's place."""


def opened(path: Path) -> BinaryIO:
    """A regular file to be read, or what a symbolic link to one leads to. Raises `NoFile`, `OSError`.

    A pipe that nobody writes to would hold up whoever opens it, and a device may have no end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NoFile(tr("is not a file"))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def write(contents: Mapping[Path, bytes]) -> None:
    """Files that appear under their names, in this order, when all of them are on the disk. One that is there already
    is replaced. Raises `CannotWrite`.
    """
    parts = {path: path.with_name(f".{path.name}.part") for path in contents}
    try:
        for path, data in contents.items():
            with _told(path), parts[path].open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # some file systems find out only then that they are full
        for path, part in parts.items():
            with _told(path):
                part.replace(path)
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(path.name, error) from error


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
