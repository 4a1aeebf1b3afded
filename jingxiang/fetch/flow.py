"""What one connection is doing."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from jingxiang.fetch import faults
from jingxiang.fetch.faults import Fault


@dataclass(eq=False)
class Flow:
    """For those who watch a connection from another thread and may cut it off: nothing within a blocking call notices
    a server that sends a byte a second.

    `received` counts the bytes of bodies; `waited_s` are the seconds that were spent on waiting for the server: not for
    a free slot, and not while somebody wrote to a slow disk.
    """

    received: int = 0
    _clock: tuple[float, float] = (0.0, 0.0)  # seconds waited before, and since when again; one value, for readers
    _socket: socket.socket | None = None
    _fault: Fault | None = None

    @property
    def waited_s(self) -> float:
        before_s, since = self._clock
        return before_s + (time.monotonic() - since if since else 0.0)

    @property
    def was_cut(self) -> bool:
        return self._fault is not None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the server. Raises the fault that it was cut with; other errors become faults."""
        self._clock = (self._clock[0], time.monotonic())
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise self._fault or faults.of_error(error) from error
        finally:
            self._clock = (self.waited_s, 0.0)
        if self._fault:  # a connection that was shut down looks like one that has come to its end
            raise self._fault

    def use(self, opened: socket.socket | None) -> None:
        """The socket to shut down."""
        self._socket = opened
        if self._fault and opened:
            raise self._fault

    def cut(self, fault: Fault) -> None:
        """End it, from another thread: whoever waits for it gets the fault."""
        self._fault = fault
        if opened := self._socket:
            with contextlib.suppress(OSError):  # it has ended by itself
                opened.shutdown(socket.SHUT_RDWR)
