"""Files as they come: from a server, or from a disk."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import io
import re
import time
import urllib.parse
import urllib.request
from email.message import Message
from pathlib import Path

from jingxiang.fetch import faults
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.fetch.hosts import Connection
from jingxiang.language import tr

CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
# What remains of an answer that nobody wants is read rather than making a new connection.
LEFT_OVER_BYTES = 64 << 10


class Body:
    """Bytes of a file from `start` on; `total` is the length of the whole file, None where that is not said."""

    def __init__(self, url: str, start: int, total: int | None, headers: Message | None = None) -> None:
        self.url = url
        self.start = start
        self.total = total
        self.headers = headers or Message()

    def read_into(self, block: memoryview) -> int:
        """The next bytes, at least one of them; 0 at the end. Raises `Fault`."""
        raise NotImplementedError

    def close(self) -> None:
        """Must be called, once."""
        raise NotImplementedError


class Response(Body):
    """The answer of an HTTP server, whatever its status. Raises `Fault` if its headers make no sense."""

    def __init__(self, url: str, connection: Connection, answer: http.client.HTTPResponse, flow: Flow) -> None:
        self.status = answer.status
        self.reason = answer.reason
        self._connection = connection
        self._answer = answer
        self._flow = flow
        self._begun = False
        # Bytes that are to come; None: as long as the connection lasts, or by chunks.
        self._left = None if answer.chunked else answer.length
        start, total = 0, self._left
        if answer.status == 206:
            match = CONTENT_RANGE.fullmatch((answer.headers.get("Content-Range") or "").strip())
            if not match:
                self.close()
                raise Fault(Kind.LENGTH, tr("206 without saying which part"))
            start, total = int(match[1]), int(match[2]) if match[2] != "*" else None
        super().__init__(url, start, total, answer.headers)

    def check(self) -> None:
        """Raise `Fault` unless it is a file, or the part of one."""
        if self.status in (200, 206):
            return
        wait_s = _wait_s(self.headers.get("Retry-After") or "")
        challenge = self.headers.get("WWW-Authenticate") or ""
        raise faults.of_status(self.status, self.reason, wait_s=wait_s, challenge=challenge)

    def read_into(self, block: memoryview) -> int:
        with self._flow.waiting():
            count = self._read(block)
        self._flow.received += count
        if self._left is not None:
            self._left -= count
            if self._left and not count:
                raise Fault(Kind.CUT, tr("ends {count} bytes before its end", count=self._left))
        return count

    def _read(self, block: memoryview) -> int:
        if self._left == 0:
            return 0
        if self._left is not None:
            block = block[: self._left]
            if self._begun:  # straight into the block: the answer's own `readinto` would wait until it is full
                return self._answer.fp.readinto1(block)
        # What came with the headers is not waited for more of, as `readinto1` would.
        data = self._answer.read1(len(block)) if self._left is None else self._answer.fp.read1(len(block))
        block[: len(data)] = data
        self._begun = True
        return len(data)

    def close(self) -> None:
        """Give the connection back. It is kept for the next request if little of this answer is left on it."""
        if self._left and self._left <= LEFT_OVER_BYTES and self.status not in (200, 206):
            with contextlib.suppress(Fault):
                while self.read_into(memoryview(bytearray(self._left))):
                    pass
        whole = self._left == 0 or self._answer.isclosed()
        keep = whole and not self._answer.will_close
        self._answer.close()
        self._flow.use(None)
        self._connection.leave(keep=keep)


class FileBody(Body):
    """A file on a disk, as if a server had sent it."""

    def __init__(self, url: str, start: int, end: int | None, flow: Flow) -> None:
        try:
            path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
            if path.is_dir():  # what its page links to is below it
                path, url = path / "index.html", f"{url.rstrip('/')}/"
            if not path.is_file():  # or a pipe, which would be waited for
                raise Fault(Kind.ABSENT, tr("not there"))
            self._stream = io.FileIO(path)
            total = self._stream.seek(0, io.SEEK_END)
            self._stream.seek(start)
        except (OSError, ValueError) as error:
            raise faults.of_error(error) from error
        self._left = (total if end is None else min(end, total)) - start
        self._flow = flow
        super().__init__(url, start, total)

    def read_into(self, block: memoryview) -> int:
        with self._flow.waiting():
            count = self._stream.readinto(block[: max(0, min(len(block), self._left))]) or 0
        self._flow.received += count
        self._left -= count
        return count

    def close(self) -> None:
        self._stream.close()


def _wait_s(text: str) -> float:
    """Retry-After: seconds, or a date (RFC 9110, section 10.2.3)."""
    if text.strip().isdecimal():
        return float(text)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0
