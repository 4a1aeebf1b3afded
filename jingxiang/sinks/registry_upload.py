"""One blob on its way into a repository: in pieces, going on where a broken connection has left it.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#push
"""

from __future__ import annotations

import re
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jingxiang.errors import JingxiangError
from jingxiang.fetch.flow import Flow
from jingxiang.fetch.sending import Answer, Stream
from jingxiang.images import Content
from jingxiang.language import tr
from jingxiang.layers import Changed
from jingxiang.sinks import registry_access
from jingxiang.sinks.base import OnSent, SinkFull
from jingxiang.sinks.registry_access import Access, Denied, Refused, RegistryError, Renewed, Scopes, Unreachable

# A registry waits for its disk after each piece: with 64 MiB, 2 GB take a fifth longer.
PIECE_BYTES = 512 << 20
SMALL_PIECE_BYTES = 64 << 20  # for proxies that take less; a usual limit is 100 MB
WHOLE_BYTES = 1 << 20  # so much comes with the last request
SEND_BYTES = 512 << 10  # at a time
# Before an upload is taken up again; it fails after so many without a byte more.
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
# A registry that keeps blobs elsewhere reads all of one again before it says that it is right.
FINISH_S = 900.0
# Answers of registries that do not take a blob in pieces, or have forgotten the upload.
NO_PIECES = frozenset({400, 404, 405, 411, 416, 501})
RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
ENOSPC = 28


class Interrupted(RegistryError):
    """A blob did not arrive in spite of several attempts."""

    def __init__(self, host: str, title: str, reason: str) -> None:
        super().__init__(
            tr("registry {host}: {title} did not arrive in {count} attempts: {reason}", host=host, title=title,
               count=len(PAUSES_S) + 1, reason=reason),
            hints=(tr("do it again: layers that have arrived are not sent again"),),
        )  # fmt: skip


class Damaged(RegistryError):
    """What a registry has got is not what the digest stands for."""

    def __init__(self, host: str, title: str) -> None:
        super().__init__(
            tr("registry {host}: {title} has another checksum there than here", host=host, title=title),
            hints=(tr("do it again; if it happens again, look at what is between here and there (proxies)"),),
        )


class Unreadable(JingxiangError):
    """What is to be sent cannot be read here."""

    def __init__(self, title: str, reason: str) -> None:
        super().__init__(tr("{title}: cannot be read: {reason}", title=title, reason=reason))


class _Again(Exception):
    """An answer after which it is worth while to go on."""

    def __init__(self, error: JingxiangError, wait_s: float = 0.0) -> None:
        super().__init__(error)
        self.error = error
        self.wait_s = wait_s


class Source:
    """The bytes of a blob from any place on. What lies behind is read again from the beginning."""

    def __init__(self, title: str, size: int, content: Content) -> None:
        self.title = title
        self.size = size
        self._content = content
        self._begin()

    def take(self, start: int, count: int) -> Iterator[memoryview]:
        """Exactly so many bytes, in parts of at most SEND_BYTES. Raises `Changed` or `Unreadable`."""
        if start < self._place:
            self._begin()
        while self._place < start:
            self._next(start - self._place)
        while count:
            part = self._next(min(count, SEND_BYTES))
            count -= len(part)
            yield part

    def check(self) -> None:
        """Read to the end, which has to come where it is expected. Raises `Changed`."""
        for _ in self.take(self.size, 0):
            pass
        if self._rest or self._block():
            raise Changed(self.title)

    def _begin(self) -> None:
        self._blocks = iter(self._content.blocks())
        self._rest = memoryview(b"")
        self._place = 0

    def _next(self, most: int) -> memoryview:
        if not self._rest:
            self._rest = memoryview(self._block())
        if not self._rest:
            raise Changed(self.title)
        part, self._rest = self._rest[:most], self._rest[most:]
        self._place += len(part)
        return part

    def _block(self) -> bytes:
        """The next block with something in it; empty at the end."""
        try:
            return next(filter(None, self._blocks), b"")
        except OSError as error:
            raise Unreadable(self.title, error.strerror or str(error)) from error


@dataclass(frozen=True)
class Repository:
    """A repository of a registry, and what all uploads to it have in common.

    `stop`: set when nobody waits for them any more.
    """

    access: Access
    name: str
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def scopes(self) -> Scopes:
        return (f"repository:{self.name}:pull,push",)

    def path(self, kind: str, what: str) -> str:
        return f"/v2/{self.name}/{kind}/{what}"

    def has(self, sha256: str, flow: Flow | None = None) -> bool:
        """Whether a blob is there."""
        answer = self.access.ask("HEAD", self.path("blobs", f"sha256:{sha256}"), self.scopes, flow=flow)
        # 307: it is kept on another host
        if answer.status in (200, 307):
            return True
        if answer.status == 404:
            return False
        raise self.problem(answer, tr("looking for layers"))

    def problem(self, answer: Answer, what: str) -> JingxiangError:
        """What a status means that is not the right one."""
        said = registry_access.said(answer)
        if answer.status in (401, 403):
            return Denied(self.access.host, self.name, f"{answer.status} {said}")
        if answer.status == 507 or _is_full(answer):
            return SinkFull(f"registry {self.access.host}", f"{answer.status} {said}")
        return Refused(self.access.host, what, answer.status, said)


class Upload:
    """Brings one blob into a repository. `origins`: repositories of the same registry that may have it.

    `flow` is cut to end it from outside.
    """

    def __init__(
        self,
        repository: Repository,
        source: Source,
        sha256: str,
        *,
        origins: Sequence[str] = (),
        on_sent: OnSent = lambda count: None,
        flow: Flow | None = None,
    ) -> None:
        self._repository = repository
        self._access = repository.access
        self._source = source
        self._sha256 = sha256
        self._origins = origins
        self._on_sent = on_sent
        self._flow = flow or Flow()
        self._location = ""  # where to send the next piece; empty: no upload is open
        self._offset = 0  # bytes that the registry has
        self._furthest = 0  # the most that it had
        self._told = 0  # bytes that `on_sent` was called for
        self._in_doubt = False  # whether the registry has to be asked what it has
        self._piece_bytes = PIECE_BYTES

    def run(self) -> None:
        """Raises `RegistryError`, `SinkFull`, `Changed` or `Unreadable`."""
        if self._is_mounted():
            return None
        failures = 0
        while True:
            before = self._furthest
            try:
                return self._attempt()
            except (Unreachable, Renewed, _Again) as caught:
                failures = 1 if self._furthest > before else failures + 1
                if failures > len(PAUSES_S) or self._repository.stop.is_set():
                    raise self._given_up(caught) from caught
                self._in_doubt = bool(self._location)
                wait_s = caught.wait_s if isinstance(caught, _Again) else 0.0
                self._repository.stop.wait(max(wait_s, PAUSES_S[failures - 1]))
            except Changed:
                self._cancel()
                raise

    def _given_up(self, caught: Unreachable | Renewed | _Again) -> JingxiangError:
        if isinstance(caught, _Again):
            return caught.error
        if isinstance(caught, Renewed):
            return self._repository.problem(caught.answer, self._source.title)
        return Interrupted(self._access.host, self._source.title, caught.reason)

    def _attempt(self) -> None:
        """From where it is to the end."""
        if self._in_doubt:
            self._look()
        if not self._location:
            self._open()
        size = self._source.size
        if self._offset or size > WHOLE_BYTES:
            while self._offset < size:
                self._send_piece()
        self._finish()

    def _is_mounted(self) -> bool:
        """Whether the registry takes the blob from another repository of its own. Whatever it says against that is no
        reason not to send it."""
        for origin in self._origins:
            self._cancel()
            query = urllib.parse.urlencode({"mount": f"sha256:{self._sha256}", "from": origin})
            scopes = (*self._repository.scopes, f"repository:{origin}:pull")
            try:
                answer = self._ask("POST", self._repository.path("blobs", f"uploads/?{query}"), scopes=scopes)
            except Denied:  # there is no token for both
                continue
            if answer.status == 201:
                return True
            if answer.status == 202:
                self._begun(answer)
        return False

    def _open(self) -> None:
        answer = self._ask("POST", self._repository.path("blobs", "uploads/"))
        if answer.status != 202:
            raise self._problem(answer)
        self._begun(answer)

    def _begun(self, answer: Answer) -> None:
        self._location, self._offset = self._access.follow(answer, self._source.title), 0
        least = answer.headers.get("OCI-Chunk-Min-Length") or ""
        self._piece_bytes = max(self._piece_bytes, int(least) if least.isdecimal() else 0)

    def _look(self) -> None:
        """Ask how much of it has arrived; if the registry does not know, it begins again."""
        answer = self._ask("GET", self._location)
        self._in_doubt = False
        arrived = _arrived(answer)
        if answer.good and arrived is not None and arrived <= self._source.size:
            self._advance(answer, arrived)
        elif answer.good or answer.status in NO_PIECES:
            self._location, self._offset = "", 0
        else:
            raise self._problem(answer)

    def _advance(self, answer: Answer, arrived: int) -> None:
        if answer.headers.get("Location"):
            self._location = self._access.follow(answer, self._source.title)
        self._offset = arrived
        self._furthest = max(self._furthest, arrived)

    def _send_piece(self) -> None:
        count = min(self._piece_bytes, self._source.size - self._offset)
        whole = self._piece_bytes >= self._source.size
        headers = {"Content-Type": "application/octet-stream"}
        if self._offset or not whole:
            headers["Content-Range"] = f"{self._offset}-{self._offset + count - 1}"
        answer = self._ask("PATCH", self._location, headers=headers, body=self._body(count))
        if answer.good:
            arrived = _arrived(answer)
            self._advance(answer, self._offset + count if arrived is None else arrived)
        elif answer.status == 413 and count > SMALL_PIECE_BYTES:
            self._piece_bytes = SMALL_PIECE_BYTES
            raise _Again(self._repository.problem(answer, self._source.title))
        elif answer.status in NO_PIECES and "Content-Range" in headers:
            # Some registries take a blob only in one piece, as docker sends it.
            self._cancel()
            self._piece_bytes = self._source.size
            raise _Again(self._repository.problem(answer, self._source.title))
        else:
            raise self._problem(answer)

    def _finish(self) -> None:
        count = self._source.size - self._offset
        rest = b"".join(self._source.take(self._offset, count))  # of a small one all
        self._source.check()
        separator = "&" if "?" in self._location else "?"
        url = f"{self._location}{separator}{urllib.parse.urlencode({'digest': f'sha256:{self._sha256}'})}"
        headers = {"Content-Type": "application/octet-stream"}
        try:
            answer = self._ask("PUT", url, headers=headers, body=Stream([rest], count), patience_s=FINISH_S)
        except Unreachable:
            if self._flow.was_cut or not self._repository.has(self._sha256, self._flow):
                raise
            return  # only the answer was lost
        if not answer.good:
            if any(each.get("code") == "DIGEST_INVALID" for each in registry_access.errors(answer)):
                raise Damaged(self._access.host, self._source.title)
            if answer.status in NO_PIECES and self._repository.has(self._sha256, self._flow):
                return
            raise self._problem(answer)
        self._tell(self._source.size)

    def _body(self, count: int) -> Stream:
        def blocks() -> Iterator[memoryview]:
            place = self._offset
            for part in self._source.take(place, count):
                yield part
                place += len(part)
                self._tell(place)

        return Stream(blocks(), count)

    def _tell(self, place: int) -> None:
        """Bytes that go out a second time are not counted again."""
        if place > self._told:
            self._on_sent(place - self._told)
            self._told = place

    def _cancel(self) -> None:
        """Have the registry forget what it has got; it would do so by itself some day."""
        location, self._location, self._offset = self._location, "", 0
        if location:
            try:
                self._ask("DELETE", location)
            except RegistryError:
                return

    def _problem(self, answer: Answer) -> Exception:
        """An error, or a reason to go on."""
        error = self._repository.problem(answer, self._source.title)
        busy = answer.status in registry_access.BUSY or answer.status == 500
        if busy and not isinstance(error, SinkFull):
            return _Again(error, registry_access.pause(answer))
        return error

    def _ask(
        self,
        method: str,
        url: str,
        *,
        scopes: Scopes = (),
        headers: dict[str, str] | None = None,
        body: Stream | None = None,
        patience_s: float = registry_access.PATIENCE_S,
    ) -> Answer:
        return self._access.ask(
            method, url, scopes or self._repository.scopes, headers=headers or {}, body=body, patience_s=patience_s,
            flow=self._flow,
        )  # fmt: skip


def _arrived(answer: Answer) -> int | None:
    """How many bytes a registry says that it has; None if it does not. That of nothing is 0-0, as that of one byte."""
    match = RANGE.fullmatch((answer.headers.get("Range") or "").strip())
    last = int(match[1]) if match else None
    return last + 1 if last else last


def _is_full(answer: Answer) -> bool:
    """distribution says it with 500, and the system's number somewhere in the detail."""
    details = [each.get("detail") for each in registry_access.errors(answer)]
    numbers = [each["Enclosed"].get("Err") for each in details
               if isinstance(each, dict) and isinstance(each.get("Enclosed"), dict)]  # fmt: skip
    return ENOSPC in numbers or b"no space left on device" in answer.body
