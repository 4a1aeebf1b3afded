"""Requests that bring something along, and their answers, which are small and read whole."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message

from jingxiang.fetch.bodies import Response

# A server that has broken the connection has said why before, or never will.
EARLY_S = 1.0
ANSWER_BYTES = 4 << 20  # what a manifest may have, by the distribution-spec


class Stale(ConnectionResetError):
    """An idle connection that the server has ended meanwhile; nothing was sent."""


@dataclass(frozen=True)
class Stream:
    """A body of `size` bytes that can be sent once. Errors of its blocks go to the sender as they are; only an OSError
    would be taken for one of the connection."""

    blocks: Iterable[bytes | memoryview]
    size: int


@dataclass(frozen=True)
class Sending:
    """What a request does. `patience_s`: how long the server may think when it has got everything (None: as long as it
    may be silent otherwise)."""

    method: str = "GET"
    body: bytes | Stream | None = None
    patience_s: float | None = None

    @property
    def again(self) -> bool:
        """Whether it can be sent a second time."""
        return not isinstance(self.body, Stream)

    def exchange(
        self, line: http.client.HTTPConnection, target: str, headers: Mapping[str, str], *, idle: bool
    ) -> http.client.HTTPResponse:
        """Send it over a connection; the answer's headers. `idle`: the connection was used before."""
        body = self.body.blocks if isinstance(self.body, Stream) else self.body
        if isinstance(self.body, Stream):
            if idle and _has_ended(line.sock):
                raise Stale
            headers = {**headers, "Content-Length": str(self.body.size)}
        line.sock.settimeout(line.timeout)
        try:
            line.request(self.method, target, body=body, headers=dict(headers))
        except OSError:
            # Who does not want the rest may have answered before breaking the connection.
            if self.body and (answer := _early(line)):
                return answer
            raise
        line.sock.settimeout(self.patience_s or line.timeout)
        return line.getresponse()


@dataclass(frozen=True)
class Answer:
    """What a server said, whatever its status."""

    url: str
    status: int
    reason: str
    headers: Message
    body: bytes

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


def answer(response: Response) -> Answer:
    """All of a small answer; of a large one the beginning. Raises `Fault`."""
    body, block = bytearray(), memoryview(bytearray(64 << 10))
    while len(body) < ANSWER_BYTES and (count := response.read_into(block)):
        body += block[:count]
    return Answer(response.url, response.status, response.reason, response.headers, bytes(body))


def _early(line: http.client.HTTPConnection) -> http.client.HTTPResponse | None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        line.sock.settimeout(EARLY_S)
        answer = line.getresponse()
        answer.will_close = True  # half of a request is on the connection: nothing else may follow
        return answer
    return None


def _has_ended(opened: socket.socket) -> bool:
    """Nobody speaks on an idle connection but to end it."""
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(0))
