"""A reverse proxy that has the app below a path of its own site, as nginx does with

location /video/ { proxy_pass http://127.0.0.1:7860/; proxy_set_header Host $http_host; proxy_buffering off; }
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CHUNK = 1 << 16
# What belongs to one connection, and not to what is passed on.
OWN = ("connection", "keep-alive", "transfer-encoding", "upgrade", "te")


@contextlib.contextmanager
def serving(url: str, path: str = "/video/") -> Iterator[str]:
    """The address at which `url`, the root of a server on this machine, is then. All else of that site is 404."""
    upstream = urlsplit(url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

        def handle_one_request(self) -> None:
            # Methods are passed on like all else, so there is no `do_GET` for each.
            self.raw_requestline = self.rfile.readline(CHUNK + 1)
            if not self.raw_requestline:
                self.close_connection = True
            elif self.parse_request():
                self.pass_on()

        def pass_on(self) -> None:
            if not self.path.startswith(path):
                self.send_error(404)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in OWN}
            headers |= {"X-Forwarded-For": self.client_address[0], "X-Forwarded-Proto": "http"}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
            with contextlib.closing(http.client.HTTPConnection(upstream)) as line:
                line.request(self.command, "/" + self.path.removeprefix(path), body, headers)
                self.answer(line.getresponse())

        def answer(self, answer: http.client.HTTPResponse) -> None:
            """Piece by piece, as it comes: the end of one without a length is that of the connection."""
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in OWN:
                    moved = name.lower() == "location" and value.startswith(f"http://{upstream}/")
                    self.send_header(name, path + value.removeprefix(f"http://{upstream}/") if moved else value)
            if "Content-Length" not in answer.headers:
                self.send_header("Connection", "close")  # which also makes it so
            self.end_headers()
            while piece := answer.read1(CHUNK):
                self.wfile.write(piece)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{path}"
    finally:
        server.shutdown()
        server.server_close()
