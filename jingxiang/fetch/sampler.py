"""A small file, or the beginning of a large one, within a time that holds come what may."""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message

from jingxiang.errors import JingxiangError
from jingxiang.fetch.bodies import Body, Response
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.language import tr

BLOCK_BYTES = 64 << 10
PAGE_BYTES = 64 << 20  # the largest index page of today has 5 MB
GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Reply:
    """What a server sent in time, whole or in part. `status` 0: nothing that is HTTP.

    `url` is where redirects led to, `total` the bytes of the whole file (None: not said), `late` whether the time was
    over before the body was; `fault` says why the reply is of no use.
    """

    status: int = 0
    url: str = ""
    headers: Message = field(default_factory=Message)
    body: bytes = b""
    total: int | None = None
    first_s: float = 0.0
    seconds: float = 0.0
    late: bool = False
    fault: Fault | None = None


class Sampler:
    """Collects a body in one thread while another one waits, but not for ever."""

    def __init__(self, limit: int, *, unpack: bool = False) -> None:
        self.flow = Flow()
        self._limit = limit
        self._unpack = unpack
        self._start = time.monotonic()
        self._first_s = self._seconds = 0.0
        self._body = bytearray()
        self._source: Body | None = None
        self._fault: Fault | None = None
        self._error: JingxiangError | None = None
        self._done = threading.Event()

    def run(self, exchange: Callable[[], None], seconds: float) -> Reply:
        threading.Thread(target=exchange, daemon=True).start()
        late = not self._done.wait(seconds)
        if late:
            self.flow.cut(Fault(Kind.SILENT, tr("timed out")))
        return self._reply(late=late)

    def receive(self, opened: Callable[[], Body]) -> None:
        try:
            with contextlib.closing(opened()) as source:
                self._source = source
                if isinstance(source, Response):
                    source.check()
                block = memoryview(bytearray(BLOCK_BYTES))
                while len(self._body) < self._limit and (count := source.read_into(block)):
                    self._first_s = self._first_s or time.monotonic() - self._start
                    self._body += block[: min(count, self._limit - len(self._body))]
        except Fault as fault:
            self._fault = fault
        except JingxiangError as error:  # of our own settings: whoever waits gets it
            self._error = error
        finally:
            self._seconds = time.monotonic() - self._start
            self._done.set()

    def _reply(self, *, late: bool) -> Reply:
        if self._error:
            raise self._error
        body, source = bytes(self._body), self._source
        seconds = self._seconds or time.monotonic() - self._start
        if source is None:
            return Reply(seconds=seconds, late=late, fault=self._fault or Fault(Kind.SILENT, tr("timed out")))
        fault: Fault | None = None if late else self._fault
        if self._unpack and source.headers.get("Content-Encoding") == "gzip" and not (late or fault):
            unpacker = zlib.decompressobj(GZIP)
            try:
                body = unpacker.decompress(body, PAGE_BYTES)
            except zlib.error:
                fault = Fault(Kind.CORRUPT, tr("checksum differs"))
            if not (fault or unpacker.eof):
                fault = Fault(Kind.CUT, tr("the connection was cut off"))
        return Reply(
            getattr(source, "status", 200), source.url, source.headers, body, source.total,
            first_s=self._first_s or seconds, seconds=seconds, late=late, fault=fault,
        )  # fmt: skip
