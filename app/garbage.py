"""Python's search for garbage, put off while much is made that stays.

It looks through all there is again and again then, and finds next to nothing: that is a quarter of the time that it
takes to import torch and diffusers.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_LOCK = threading.Lock()
_users = 0


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Not meanwhile, in no thread; and what is there afterwards is not looked through before `collect`."""
    global _users
    with _LOCK:
        _users += 1
        gc.disable()
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if not _users:
                gc.freeze()
                gc.enable()


def collect() -> None:
    """Free all that nothing refers to any more, whenever it was made. What stays is not looked through again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
