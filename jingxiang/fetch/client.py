"""The only HTTP of the toolkit: polite, through proxies and private CAs, with logins that stay with their host."""

from __future__ import annotations

import http.client
import socket
import urllib.parse
from collections.abc import Mapping

from jingxiang import __version__
from jingxiang.fetch import sockets
from jingxiang.fetch.bodies import Body, FileBody, Response
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.fetch.hosts import PER_HOST, Connection, Hosts, Route
from jingxiang.fetch.network import PORTS, Network
from jingxiang.fetch.sampler import PAGE_BYTES, Reply, Sampler
from jingxiang.language import tr

USER_AGENT = f"jingxiang/{__version__}"
CONNECT_S = 5.0
# A server that says nothing for so long is given up even if nobody watches the connection.
SILENCE_S = 30.0
REDIRECTS = 10
REDIRECTING = (301, 302, 303, 307, 308)
# What may stand in an address as it is; everything else is percent-encoded, as browsers do.
URL_SAFE = "%/:=&?~#+!$,;'@()*[]"
# How a server ends a connection that it has kept open for a while.
GONE = (http.client.RemoteDisconnected, http.client.BadStatusLine, ConnectionResetError, BrokenPipeError)


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
        sampler = Sampler(limit)
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
    ) -> tuple[Connection, http.client.HTTPResponse]:
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
            connection = idle or Connection(self._hosts, route, self._line(route))
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

    def _connect(self, connection: Connection, flow: Flow) -> None:
        def connected(address: tuple[str, int], *_: object) -> socket.socket:
            opened = sockets.connect(*address, CONNECT_S)
            opened.settimeout(SILENCE_S)
            connection.handle = opened.dup()
            flow.use(connection.handle)
            return opened

        connection.line._create_connection = connected  # type: ignore[attr-defined]
        connection.line.connect()


def _route(url: str) -> Route:
    parts = urllib.parse.urlsplit(url)
    try:
        return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:  # a port that is no number
        return parts.scheme, "", 0


def _host(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name
