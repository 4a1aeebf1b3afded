"""One web server on this machine that is a mirror of every space, and can go wrong in the ways that mirrors do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.peers import wheels

RANGE = re.compile(r"bytes=(\d+)-(\d*)")
PAGE = b"<!DOCTYPE html><html><body>Welcome</body></html>"


@dataclass(frozen=True)
class Wheel:
    """A wheel of one module, and its SHA-256."""

    name: str
    version: str
    body: bytes

    @property
    def file(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def wheel(name: str, version: str, size: int = 0) -> Wheel:
    """A wheel with `size` bytes of data in it; the same every time."""
    return Wheel(name, version, wheels.content(name.replace("-", "_"), version, size))


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    path: str
    headers: dict[str, str]
    method: str = "GET"


@dataclass
class Mirror:
    """`files` by path, with `headers` of their own.

    A path of `answers` is answered by its function instead, "" stands for every path.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, Mapping[str, str]] = field(default_factory=dict)
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    most: int = 0  # connections at the same time
    connections: int = 0  # in all
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_index(self, *wheels: Wheel, form: str = "html", hashes: bool = True, root: str = "/simple") -> None:
        """A simple index (`html` or `json`) of the wheels, or with `flat` one page of links at the root."""
        listed = [(f"/packages/{each.file}", each.file, each.sha256 if hashes else "") for each in wheels]
        self.files |= {f"/packages/{each.file}": each.body for each in wheels}
        page = f"{root}/" if form == "flat" else f"{root}/{wheels[0].name}/"
        kind = "application/vnd.pypi.simple.v1+json" if form == "json" else "text/html"
        self.headers[page] = {"Content-Type": kind}
        if form == "json":
            entries = [{"url": url, "filename": n, "hashes": {"sha256": h} if h else {}} for url, n, h in listed]
            self.files[page] = json.dumps({"meta": {"api-version": "1.0"}, "files": entries}).encode()
        else:
            tags = [f'<a href="{url}{f"#sha256={h}" if h else ""}">{n}</a>' for url, n, h in listed]
            self.files[page] = f"<!DOCTYPE html><html><body>{''.join(tags)}</body></html>".encode()

    def paths(self) -> list[str]:
        return [request.path for request in self.asked]

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        with self._lock:
            self.connections += 1
            self._open += 1
            self.most = max(self.most, self._open)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def get(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(Request(request.path, dict(request.headers.items()), request.command))
        answer = self.answers.get(request.path) or self.answers.get("")
        if answer:
            with contextlib.suppress(OSError):  # the client has gone
                answer(request)
        elif request.path in self.files:
            self.send(request, self.files[request.path])
        else:
            request.send_error(404)

    def begin(self, request: BaseHTTPRequestHandler, *, length: int | None = None) -> bytes:
        """The headers of a good answer with a file; returns the bytes that were asked for, which are to follow.

        `length`: what it says that their number is.
        """
        return self.start(request, self.files[request.path], length=length)

    def start(
        self,
        request: BaseHTTPRequestHandler,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        status: int = 200,
        length: int | None = None,
    ) -> bytes:
        wanted = RANGE.fullmatch(request.headers.get("Range", "")) if status == 200 else None
        whole = len(body)
        if wanted and int(wanted[1]) >= whole:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{whole}")
            body = b""
        elif wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or whole), whole - 1)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
            body = body[first : last + 1]
        else:
            request.send_response(status)
        for name, value in (self.headers.get(request.path, {}) if headers is None else headers).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        return b"" if request.command == "HEAD" else body

    def send(
        self, request: BaseHTTPRequestHandler, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200
    ) -> None:
        """The body, or the part of it that is asked for."""
        body = self.start(request, body, headers, status)
        with contextlib.suppress(OSError):  # the client has what it wanted
            request.wfile.write(body)

    # Ways to go wrong.

    def status(self, code: int) -> Callable[[BaseHTTPRequestHandler], None]:
        return lambda request: request.send_error(code)

    def html(self, request: BaseHTTPRequestHandler) -> None:
        """200 and a web page, whatever was asked."""
        request.headers.replace_header("Range", "") if "Range" in request.headers else None
        self.send(request, PAGE, {"Content-Type": "text/html"})

    def truncated(self, request: BaseHTTPRequestHandler) -> None:
        """All of the headers, half of the body."""
        body = self.begin(request)
        request.wfile.write(body[: len(body) // 2])
        request.close_connection = True

    def silent(self, request: BaseHTTPRequestHandler) -> None:
        self.closed.wait(10)

    def dripping(self, request: BaseHTTPRequestHandler) -> None:
        """A good body, one byte at a time."""
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        self._drip(request, self.files.get(request.path, PAGE))

    def dripping_headers(self, request: BaseHTTPRequestHandler) -> None:
        """Headers without an end: no single read is late."""
        self._drip(request, b"HTTP/1.1 200 OK\r\n" + b"X-Wait: a little longer\r\n" * 50)

    def _drip(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        for byte in body:
            if self.closed.wait(0.05):
                return
            request.wfile.write(bytes([byte]))

    def redirect(self, request: BaseHTTPRequestHandler, path: str) -> None:
        request.send_response(302)
        request.send_header("Location", path)
        request.send_header("Content-Length", "0")
        request.end_headers()


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Mirror]:
    """A mirror on this machine, over TLS with a context (see `tls`)."""
    mirror = Mirror()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with mirror.connected(), contextlib.suppress(OSError):
                super().handle()

        def do_GET(self) -> None:
            mirror.get(self)

        def do_HEAD(self) -> None:
            mirror.get(self)

        def do_POST(self) -> None:
            mirror.get(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            with ExitStack() as stack, contextlib.suppress(OSError):  # the client does not trust us
                if context:
                    request = stack.enter_context(context.wrap_socket(request, server_side=True))
                super().finish_request(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    mirror.url = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield mirror
    finally:
        mirror.closed.set()
        server.shutdown()
        server.server_close()
