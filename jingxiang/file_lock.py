"""One process at a time for a thing that has a name, with a lock file that is gone when nobody needs it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` and remove it afterwards; its folder must be there.

    Gives True; with `wait=False` False at once if another process (or thread) holds it, and then nothing is held. The
    file of a killed process holds nobody up: the kernel has let its lock go.
    """
    descriptor = _taken(path, wait=wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # while we hold it: whoever waits for it sees that it has gone, and starts again
        os.close(descriptor)


def is_left(path: Path) -> bool:
    """Whether the lock file is there and nobody holds it: so it is after a process was killed."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _taken(path: Path, *, wait: bool) -> int | None:
    """The descriptor that holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_still(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file that we have locked is the one that others will find, not one that was removed meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
