"""The only HTTP of the toolkit: polite, through proxies and private CAs, with logins that stay with their host."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType

from jingxiang import __version__
from jingxiang.fetch import sending, sockets
from jingxiang.fetch.bodies import Body, FileBody, Response
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.fetch.hosts import PER_HOST, Connection, Hosts, Route
from jingxiang.fetch.network import PORTS, Network
from jingxiang.fetch.sampler import PAGE_BYTES, Reply, Sampler
from jingxiang.fetch.sending import Answer, Sending, Stale, Stream
from jingxiang.language import tr

USER_AGENT = f"jingxiang/{__version__}"
CONNECT_S = 5.0
# A server that says nothing for so long is given up even if nobody watches the connection.
SILENCE_S = 30.0
REDIRECTS = 10
REDIRECTING = (301, 302, 303, 307, 308)
# What may stand in an address as it is; everything else is percent-encoded, as browsers do.
URL_SAFE = "%/:=&?~#+!$,;'@()*[]"
# A host's name or address, as far as a header can hold it.
NAME = re.compile(r"[^\x00-\x20\x7f/@]+")
# How a server ends a connection that it has kept open for a while.
GONE = (http.client.BadStatusLine, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
GET = Sending()
NONE: Mapping[str, str] = MappingProxyType({})


class Client:
    """Requests to any number of hosts from any number of threads, at most `per_host` to one host at a time."""

    def __init__(self, network: Network, *, per_host: int = PER_HOST) -> None:
        self.network = network
        self.per_host = per_host
        self._hosts = Hosts(per_host)
        # A login that an address carries holds for its whole host: an index links to its files without repeating it.
        self._logins: dict[Route, str] = {}

    def close(self) -> None:
        """Idle connections are closed; those in use when they have ended."""
        self._hosts.close()

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
        try:
            response.check()
        except Fault:
            response.close()
            raise
        return response

    def page(self, url: str, *, seconds: float, accept: str = "*/*", authorization: str = "") -> Reply:
        """A whole small file within so many seconds, come what may. Raises `Fault`."""
        reply = self.sample(
            url, seconds=seconds, limit=PAGE_BYTES, accept=accept, compressed=True, authorization=authorization
        )
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
        authorization: str = "",
    ) -> Reply:
        """At most `limit` bytes of a file, and an answer after so many seconds, come what may.

        The request runs in a thread that is cut off then: a name server, a TLS handshake or headers that come byte by
        byte cannot be limited from within.
        """
        sampler = Sampler(limit, unpack=compressed)
        headers = {"Accept": accept}
        if ranged:
            headers["Range"] = f"bytes=0-{limit - 1}"
        if compressed:
            headers["Accept-Encoding"] = "gzip"

        def exchange() -> None:
            flow = sampler.flow
            sampler.receive(
                lambda: (
                    FileBody(url, 0, None, flow)
                    if url.startswith("file://")
                    else self._get(url, headers, authorization, flow)
                )
            )

        return sampler.run(exchange, seconds)

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NONE,
        body: bytes | Stream | None = None,
        authorization: str = "",
        patience_s: float | None = None,
        flow: Flow | None = None,
    ) -> Answer:
        """One request of any kind, and its answer whatever the status: no redirect is followed, no login is found.

        `authorization`: for the host of the address, whosoever that is; `patience_s`: how long the server may think
        when it has got everything. Raises `Fault` if there is no answer.
        """
        flow, route = flow or Flow(), _route(url)
        if route[0] not in PORTS or not route[1]:
            raise Fault(Kind.LOOP, tr("no address"))
        sent = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        if authorization:
            sent["Authorization"] = authorization
        request = Sending(method, body, patience_s)
        connection, answer = self._exchange(route, urllib.parse.urlsplit(url), sent, flow, request)
        with contextlib.closing(Response(url, connection, answer, flow)) as response:
            return sending.answer(response)

    def _get(self, url: str, headers: Mapping[str, str], authorization: str, flow: Flow) -> Response:
        """The answer, after redirects. A login goes to the host that it belongs to, and to no other."""
        own = _route(url)
        asked: set[str] = set()
        while True:
            route = _route(url)
            if url in asked or len(asked) > REDIRECTS or route[0] not in PORTS or not route[1]:
                raise Fault(Kind.LOOP, tr("its redirects lead nowhere") if asked else tr("no address"))
            parts = urllib.parse.urlsplit(url)
            sent = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **headers}
            login = self._login(route, parts, remember=not asked)
            if login := (authorization if route == own else "") or login:
                sent["Authorization"] = login
            asked.add(url)
            connection, answer = self._exchange(route, parts, sent, flow)
            response = Response(url, connection, answer, flow)
            target = response.headers.get("Location")
            if response.status not in REDIRECTING or not target:
                return response
            response.close()
            url = _joined(url, target)

    def _login(self, route: Route, parts: urllib.parse.SplitResult, *, remember: bool) -> str:
        """Of the address, else what an earlier address of the host had, else that of the file with logins.

        What a redirect says is not remembered: whoever redirects could have us show another host a wrong login.
        """
        login = self.network.login(parts)
        if "@" not in parts.netloc:
            return self._logins.get(route) or login
        if remember:
            self._logins.setdefault(route, login)
        return login

    def _exchange(
        self,
        route: Route,
        parts: urllib.parse.SplitResult,
        headers: Mapping[str, str],
        flow: Flow,
        request: Sending = GET,
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """Send one request, over an idle connection if there is one, and have the answer's headers."""
        scheme, host, port = route
        target = urllib.parse.quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=URL_SAFE)
        proxy = self.network.proxy(scheme, host, port)
        headers = dict(headers)
        if proxy and scheme == "http":
            target = f"http://{_host(host, parts.port)}{target}"
            if proxy.login:
                headers["Proxy-Authorization"] = proxy.login
        while True:
            fresh = Connection(self._hosts, route, self._line(route))
            idle = self._hosts.enter(route)
            connection = idle or fresh
            done = False
            try:
                with flow.waiting():
                    if idle:
                        flow.use(connection.handle)
                    else:
                        self._connect(connection, flow)
                    answer = request.exchange(connection.line, target, headers, idle=idle is not None)
                done = True
                return connection, answer
            except Fault as fault:
                if flow.was_cut or not (idle and isinstance(fault.__cause__, GONE if request.again else Stale)):
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

    def _connect(self, connection: Connection, flow: Flow) -> None:
        def connected(address: tuple[str, int], *_: object) -> socket.socket:
            opened = sockets.connect(*address, CONNECT_S)
            try:
                opened.settimeout(SILENCE_S)
                connection.socket, connection.handle = opened, opened.dup()
                flow.use(connection.handle)
            except BaseException:  # nobody has it yet who would close it
                opened.close()
                raise
            return opened

        connection.line._create_connection = connected  # type: ignore[attr-defined]
        connection.line.connect()


def _route(url: str) -> Route:
    """Without a host for what is no address: a redirect or an index may say anything."""
    try:
        url.encode()  # JSON may hold half a letter
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:  # brackets without an address in them, a name that is too long, a port that is no number
        return "", "", 0
    return parts.scheme, host if NAME.fullmatch(host) else "", port


def _joined(url: str, target: str) -> str:
    """Where a redirect leads to; nowhere if it makes no sense. Its bytes are UTF-8, whatever RFC 9110 says."""
    with contextlib.suppress(UnicodeError):
        target = target.encode("latin-1").decode()
    try:
        return urllib.parse.urljoin(url, target)
    except ValueError:
        return ""


def _host(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name
