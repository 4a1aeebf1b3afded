"""A real package index (pypiserver) over a folder of wheels, and bad mirrors beside it."""

from __future__ import annotations

import contextlib
import http.server
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.peers.system import free_port


@dataclass(frozen=True)
class Index:
    """`url` is its simple index; `log` names every request."""

    url: str
    log: Path


@contextlib.contextmanager
def serving(wheels: Path, log: Path) -> Iterator[Index]:
    """pypiserver, which never sends anybody elsewhere."""
    port = free_port()
    argv = [sys.executable, "-m", "pypiserver", "run", "-p", str(port), "-i", "127.0.0.1", "--disable-fallback"]
    with log.open("w") as output:
        process = subprocess.Popen([*argv, "-v", "--log-stream", "stderr", str(wheels)], stderr=output, stdout=output)
    try:
        url = f"http://127.0.0.1:{port}/simple/"
        for _ in range(200):
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=5):
                break
            time.sleep(0.05)
        yield Index(url, log)
    finally:
        process.terminate()
        process.wait(timeout=10)


class _Bad(http.server.BaseHTTPRequestHandler):
    """Answers everything with one status and one body, or never."""

    status = 403
    body = b"<html>blocked</html>"
    stall = threading.Event()

    def do_GET(self) -> None:
        if self.status == 0:
            self.stall.wait(60)
            return
        self.send_response(self.status)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def bad(status: int) -> Iterator[str]:
    """A mirror that answers every request with `status` (0: accepts the connection and stays silent)."""
    released = threading.Event()
    handler = type("Handler", (_Bad,), {"status": status, "stall": released})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()
