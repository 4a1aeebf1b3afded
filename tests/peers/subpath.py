"""A reverse proxy that shows a server below a folder of its own host, as nginx's `proxy_pass http://server/` does."""

from __future__ import annotations

import contextlib
import http.client
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.peers.proxy import OWN


@contextlib.contextmanager
def serving(upstream: str, folder: str, *, scheme: str = "") -> Iterator[str]:
    """The address of `folder`, such as `/video`, without a slash at its end. `scheme`: what it says that it was asked
    by, if anything.
    """
    target = urllib.parse.urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            if not self.path.startswith(f"{folder}/"):
                self.send_error(404)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in OWN}
            if scheme:
                headers["X-Forwarded-Proto"] = scheme
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with contextlib.closing(http.client.HTTPConnection(str(target.hostname), target.port, timeout=20)) as line:
                line.request(self.command, self.path.removeprefix(folder), body=body or None, headers=headers)
                answer = line.getresponse()
                content = answer.read()
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in (*OWN, "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = pass_on  # noqa: N815 (as the base class calls them)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{folder}"
    finally:
        server.shutdown()
        server.server_close()
