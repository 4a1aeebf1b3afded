"""HTTP proxies on this machine: one of our own that notes everything, and Debian's tinyproxy."""

from __future__ import annotations

import base64
import contextlib
import http.client
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.peers import system

# What belongs to one connection, and not to what is passed on.
OWN = ("connection", "proxy-authorization", "proxy-connection", "transfer-encoding", "keep-alive")


@dataclass(frozen=True)
class Passed:
    """A request as it came: `GET http://…` or `CONNECT HOST:PORT`."""

    line: str
    headers: dict[str, str]


@dataclass
class Proxy:
    """`login`: `USER:PASSWORD` that it wants to see. `names`: hosts that only the proxy knows, and where they are."""

    login: str = ""
    names: dict[str, str] = field(default_factory=dict)
    passed: list[Passed] = field(default_factory=list)
    url: str = ""

    def lines(self) -> list[str]:
        return [each.line for each in self.passed]

    def admits(self, request: BaseHTTPRequestHandler) -> bool:
        self.passed.append(Passed(f"{request.command} {request.path}", dict(request.headers.items())))
        wanted = f"Basic {base64.b64encode(self.login.encode()).decode()}" if self.login else None
        if wanted in (None, request.headers.get("Proxy-Authorization")):
            return True
        request.send_response(407)
        request.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
        request.send_header("Content-Length", "0")
        request.end_headers()
        return False

    def get(self, request: BaseHTTPRequestHandler) -> None:
        parts = urllib.parse.urlsplit(request.path)
        host = self.names.get(parts.hostname or "", parts.hostname or "")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in OWN}
        with contextlib.closing(http.client.HTTPConnection(host, parts.port or 80, timeout=10)) as line:
            line.request("GET", parts._replace(scheme="", netloc="").geturl(), headers=headers)
            answer = line.getresponse()
            body = answer.read()
            request.send_response(answer.status, answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in (*OWN, "content-length"):
                    request.send_header(name, value)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

    def connect(self, request: BaseHTTPRequestHandler) -> None:
        host, _, port = request.path.rpartition(":")
        request.close_connection = True
        try:
            far = socket.create_connection((self.names.get(host, host), int(port)), timeout=10)
        except OSError:
            request.send_error(502)
            return
        with far:
            far.settimeout(None)
            request.send_response(200)
            request.end_headers()
            back = threading.Thread(target=_pour, args=(far, request.connection), daemon=True)
            back.start()
            _pour(request.connection, far)
            back.join(10)


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def serving(login: str = "") -> Iterator[Proxy]:
    proxy = Proxy(login)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

        def do_GET(self) -> None:
            if proxy.admits(self):
                proxy.get(self)

        def do_CONNECT(self) -> None:
            if proxy.admits(self):
                proxy.connect(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def tinyproxy(folder: Path, login: str) -> Iterator[str]:
    """The address of a tinyproxy that wants that login."""
    program = shutil.which("tinyproxy")
    system.require(program, "no tinyproxy: apt-get install tinyproxy")
    port = system.free_port()
    settings = folder / "tinyproxy.conf"
    settings.write_text(f"Port {port}\nListen 127.0.0.1\nBasicAuth {login.replace(':', ' ')}\n")
    with ExitStack() as stack:
        running = stack.enter_context(
            subprocess.Popen([str(program), "-d", "-c", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        stack.callback(running.terminate)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
