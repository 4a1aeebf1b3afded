"""app.garbage"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from app import garbage


class Ring:
    """Refers to itself: only a search finds that nothing else does."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_looked_for_until_the_last_one_is_done() -> None:
    begun, done = threading.Event(), threading.Event()

    def other() -> None:
        with garbage.put_off():
            begun.set()
            done.wait()

    thread = threading.Thread(target=other)
    with garbage.put_off():
        thread.start()
        begun.wait()
    assert not gc.isenabled()
    done.set()
    thread.join()
    assert gc.isenabled()


def test_what_was_made_meanwhile_is_left_alone_until_all_is_looked_through() -> None:
    with garbage.put_off():
        ring = Ring()
    found = weakref.ref(ring)
    del ring
    gc.collect()
    assert found() is not None
    garbage.collect()
    assert found() is None
    assert gc.get_freeze_count() > 0


def test_an_error_does_not_put_it_off_for_ever() -> None:
    with pytest.raises(ImportError), garbage.put_off():
        raise ImportError
    assert gc.isenabled()
