"""The only HTTP of the toolkit: polite, through proxies and private CAs, with logins that stay with their host."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import io
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from jingxiang import __version__
from jingxiang.errors import JingxiangError
from jingxiang.fetch import faults, sockets
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.network import PORTS, Network
from jingxiang.language import tr

USER_AGENT = f"jingxiang/{__version__}"
PER_HOST = 4  # connections
CONNECT_S = 5.0
# A server that says nothing for so long is given up even if nobody watches the connection.
SILENCE_S = 30.0
REDIRECTS = 10
REDIRECTING = (301, 302, 303, 307, 308)
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
BLOCK_BYTES = 64 << 10
PAGE_BYTES = 64 << 20  # the largest index page of today has 5 MB
# What remains of an answer that nobody wants is read rather than making a new connection.
LEFT_OVER_BYTES = 64 << 10
# What may stand in an address as it is; everything else is percent-encoded, as browsers do.
URL_SAFE = "%/:=&?~#+!$,;'@()*[]"
# How a server ends a connection that it has kept open for a while.
GONE = (http.client.RemoteDisconnected, http.client.BadStatusLine, ConnectionResetError, BrokenPipeError)
GZIP = 16 + zlib.MAX_WBITS


@dataclass(eq=False)
class Flow:
    """What one connection is doing, for those who watch it from another thread and may cut it off: nothing within a
    blocking call notices a server that sends a byte a second.

    `received` counts the bytes of bodies; `waited_s` are the seconds that were spent on waiting for the server: not for
    a free slot, and not while somebody wrote to a slow disk.
    """

    received: int = 0
    _waited_s: float = 0.0
    _since: float = 0.0
    _socket: socket.socket | None = None
    _fault: Fault | None = None

    @property
    def waited_s(self) -> float:
        since = self._since
        return self._waited_s + (time.monotonic() - since if since else 0.0)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the server. Raises the fault that it was cut with; other errors become faults."""
        self._since = time.monotonic()
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise self._fault or faults.of_error(error) from error
        finally:
            self._waited_s, self._since = self.waited_s, 0.0
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

    def __init__(self, url: str, connection: _Connection, answer: http.client.HTTPResponse, flow: Flow) -> None:
        self.status = answer.status
        self.reason = answer.reason
        self._connection = connection
        self._answer = answer
        self._flow = flow
        # Bytes that are to come; None: as long as the connection lasts, or by chunks.
        self._left = None if answer.chunked else answer.length
        start, total = 0, self._left
        if answer.status == 206:
            match = CONTENT_RANGE.match((answer.headers.get("Content-Range") or "").strip())
            if not match:
                self.close()
                raise Fault(Kind.LENGTH, tr("206 without saying which part"))
            start, total = int(match[1]), int(match[2]) if match[2] != "*" else None
        super().__init__(url, start, total, answer.headers)

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
        if self._left is None:
            data = self._answer.read1(len(block))
            block[: len(data)] = data
            return len(data)
        # What has come by now, straight into the block: the answer's own `readinto` would wait until it is full.
        return self._answer.fp.readinto1(block[: min(len(block), self._left)]) if self._left else 0

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
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
        if path.is_dir():
            path = path / "index.html"
        try:
            self._stream = io.FileIO(path)
        except FileNotFoundError as error:
            raise Fault(Kind.ABSENT, tr("not there")) from error
        except OSError as error:
            raise faults.of_error(error) from error
        total = path.stat().st_size
        self._stream.seek(start)
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


Route = tuple[str, str, int]  # scheme, host, port


class _Connection:
    """A connection and its place among those to its host."""

    def __init__(self, hosts: _Hosts, route: Route, line: http.client.HTTPConnection) -> None:
        self.route = route
        self.line = line
        # A second handle of the socket, to shut it down by: TLS takes the first one away while it shakes hands.
        self.handle: socket.socket | None = None
        self._hosts = hosts

    def leave(self, *, keep: bool) -> None:
        if not keep:
            self.close()
        self._hosts.leave(self, keep=keep)

    def close(self) -> None:
        self.line.close()
        if self.handle:
            self.handle.close()


class _Hosts:
    """At most so many connections to a host at a time; those that are idle are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._busy: Counter[tuple[str, int]] = Counter()
        self._idle: list[_Connection] = []
        self._changed = threading.Condition()

    def free(self, host: str, port: int) -> bool:
        return self._busy[host, port] < self._limit

    def enter(self, route: Route) -> _Connection | None:
        """Wait until one more may be had; the idle one, if there is one, or None: make one."""
        _, host, port = route
        with self._changed:
            self._changed.wait_for(lambda: self.free(host, port))
            self._busy[host, port] += 1
            found = next((each for each in self._idle if each.route == route), None)
            if found:
                self._idle.remove(found)
        return found

    def leave(self, connection: _Connection, *, keep: bool) -> None:
        _, host, port = connection.route
        with self._changed:
            self._busy[host, port] -= 1
            if keep:
                self._idle.append(connection)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            for connection in self._idle:
                connection.close()
            self._idle.clear()


class Client:
    """Requests to any number of hosts from any number of threads, at most `per_host` to one host at a time."""

    def __init__(self, network: Network, *, per_host: int = PER_HOST) -> None:
        self.network = network
        self._hosts = _Hosts(per_host)
        # A login that an address carries holds for its whole host: an index links to its files without repeating it.
        self._logins: dict[Route, str] = {}

    def close(self) -> None:
        """Idle connections are closed; those in use when they have ended."""
        self._hosts.close()

    def free(self, url: str) -> bool:
        """Whether its host may be asked for something more just now."""
        _, host, port = _route(url)
        return not host or self._hosts.free(host, port)

    def body(
        self, url: str, *, start: int = 0, end: int | None = None, authorization: str = "", flow: Flow | None = None
    ) -> Body:
        """A file from `start` on, up to `end`. A server may send the whole file instead: see the body's `start`.

        Raises `Fault` for every status but 200 and 206.
        """
        if url.startswith("file://"):
            return FileBody(url, start, end, flow or Flow())
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        response = self._get(url, headers, authorization, flow or Flow())
        if response.status not in (200, 206):
            with contextlib.closing(response):
                raise _fault(response)
        return response

    def page(self, url: str, *, seconds: float, accept: str = "*/*") -> Reply:
        """A whole small file within so many seconds, come what may. Raises `Fault`."""
        reply = self.sample(url, seconds=seconds, limit=PAGE_BYTES, accept=accept, compressed=True)
        if reply.fault:
            raise reply.fault
        if reply.late:
            raise Fault(Kind.SILENT, tr("timed out"))
        return reply

    def sample(
        self,
        url: str,
        *,
        seconds: float,
        limit: int,
        ranged: bool = False,
        accept: str = "*/*",
        compressed: bool = False,
    ) -> Reply:
        """At most `limit` bytes of a file, and an answer after so many seconds, come what may.

        The request runs in a thread that is cut off then: a name server, a TLS handshake or headers that come byte by
        byte cannot be limited from within.
        """
        sampler = _Sampler(limit)
        headers = {"Accept": accept}
        if ranged:
            headers["Range"] = f"bytes=0-{limit - 1}"
        if compressed:
            headers["Accept-Encoding"] = "gzip"

        def exchange() -> None:
            flow = sampler.flow
            sampler.receive(
                lambda: FileBody(url, 0, None, flow) if url.startswith("file://") else self._get(url, headers, "", flow)
            )

        return sampler.run(exchange, seconds)

    def _get(self, url: str, headers: Mapping[str, str], authorization: str, flow: Flow) -> Response:
        """The answer, after redirects. A login goes to the host that it belongs to, and to no other."""
        own = _route(url)
        asked: set[str] = set()
        while True:
            if url in asked or len(asked) > REDIRECTS or not url.startswith(("https://", "http://")):
                raise Fault(Kind.LOOP, tr("its redirects lead nowhere"))
            asked.add(url)
            route, parts = _route(url), urllib.parse.urlsplit(urllib.parse.quote(url, safe=URL_SAFE))
            if login := self.network.login(parts):
                self._logins.setdefault(route, login)
            sent = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **headers}
            if login := (authorization if route == own else "") or self._logins.get(route, ""):
                sent["Authorization"] = login
            connection, answer = self._exchange(route, parts, sent, flow)
            response = Response(url, connection, answer, flow)
            target = response.headers.get("Location")
            if response.status not in REDIRECTING or not target:
                return response
            response.close()
            url = urllib.parse.urljoin(url, target)

    def _exchange(
        self, route: Route, parts: urllib.parse.SplitResult, headers: Mapping[str, str], flow: Flow
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        """Send one request, over an idle connection if there is one, and have the answer's headers."""
        scheme, host, port = route
        target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        proxy = self.network.proxy(scheme, host, port)
        headers = dict(headers)
        if proxy and scheme == "http":
            target = parts._replace(netloc=_host(host, parts.port), fragment="").geturl()
            if proxy.login:
                headers["Proxy-Authorization"] = proxy.login
        while True:
            idle = self._hosts.enter(route)
            connection = idle or _Connection(self._hosts, route, self._line(route))
            done = False
            try:
                with flow.waiting():
                    if idle:
                        flow.use(connection.handle)
                    else:
                        self._connect(connection, flow)
                    connection.line.request("GET", target, headers=headers)
                    answer = connection.line.getresponse()
                done = True
                return connection, answer
            except Fault as fault:
                if not (idle and isinstance(fault.__cause__, GONE)):
                    raise
            finally:
                if not done:
                    flow.use(None)
                    connection.leave(keep=False)

    def _line(self, route: Route) -> http.client.HTTPConnection:
        scheme, host, port = route
        proxy = self.network.proxy(scheme, host, port)
        near_host, near_port = (proxy.host, proxy.port) if proxy else (host, port)
        if scheme == "http":
            return http.client.HTTPConnection(near_host, near_port, timeout=SILENCE_S)
        line = http.client.HTTPSConnection(
            near_host, near_port, timeout=SILENCE_S, context=self.network.context(host, port)
        )
        if proxy:
            line.set_tunnel(host, port, {"Proxy-Authorization": proxy.login} if proxy.login else {})
        return line

    def _connect(self, connection: _Connection, flow: Flow) -> None:
        def connected(address: tuple[str, int], *_: object) -> socket.socket:
            opened = sockets.connect(*address, CONNECT_S)
            opened.settimeout(SILENCE_S)
            connection.handle = opened.dup()
            flow.use(connection.handle)
            return opened

        connection.line._create_connection = connected  # type: ignore[attr-defined]
        connection.line.connect()


class _Sampler:
    """Collects a body in one thread while another one waits, but not for ever."""

    def __init__(self, limit: int) -> None:
        self.flow = Flow()
        self._limit = limit
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
                if isinstance(source, Response) and source.status not in (200, 206):
                    raise _fault(source)
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
        if source.headers.get("Content-Encoding") == "gzip" and not (late or fault):
            try:
                body = zlib.decompressobj(GZIP).decompress(body, PAGE_BYTES)
            except zlib.error:
                fault = Fault(Kind.CORRUPT, tr("checksum differs"))
        return Reply(
            getattr(source, "status", 200), source.url, source.headers, body, source.total,
            first_s=self._first_s or seconds, seconds=seconds, late=late, fault=fault,
        )  # fmt: skip


def _route(url: str) -> Route:
    parts = urllib.parse.urlsplit(url)
    try:
        return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:  # a port that is no number
        return parts.scheme, "", 0


def _host(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name


def _fault(response: Response) -> Fault:
    challenge = response.headers.get("WWW-Authenticate") or ""
    wait_s = _wait_s(response.headers.get("Retry-After") or "")
    return faults.of_status(response.status, response.reason, wait_s=wait_s, challenge=challenge)


def _wait_s(text: str) -> float:
    """Retry-After: seconds, or a date (RFC 9110, section 10.2.3)."""
    if text.strip().isdecimal():
        return float(text)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0
