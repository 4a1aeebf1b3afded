"""`python -m tests.peers.large FILE`: a Hub with one repository of one large file, sent by the kernel.

Prints its address. A process of its own, so that its work and that of a client do not share one interpreter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

REPOSITORY, NAME = "org/large", "weights.safetensors"
REVISION = "1" * 40
BLOCK_BYTES = 16 << 20
LOCK = threading.Lock()
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Large:
    """Where it is served, and what it is."""

    url: str
    sha256: str
    size_bytes: int

    def sent_bytes(self) -> int:
        """How much of the file it has sent so far, in all."""
        with urllib.request.urlopen(f"{self.url}/sent", timeout=20) as answer:
            return int(answer.read())

    @property
    def file_url(self) -> str:
        return f"{self.url}/{REPOSITORY}/resolve/{REVISION}/{NAME}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    file: Path
    sha256: str
    sent_bytes: ClassVar[int] = 0

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        size = self.file.stat().st_size
        path = self.path.partition("?")[0]
        lfs = {"oid": self.sha256, "size": size, "pointerSize": 134}
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._json([{"type": "file", "path": NAME, "size": size, "oid": "2" * 40, "lfs": lfs}])
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            self._json({"id": REPOSITORY, "modelId": REPOSITORY, "sha": REVISION, "siblings": [{"rfilename": NAME}]})
        elif path == "/sent":
            self._json(Handler.sent_bytes)
        elif path.endswith(f"/{NAME}"):
            self._file(size)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, size: int) -> None:
        match = RANGE.fullmatch(self.headers.get("Range", ""))
        start, end = (int(match[1]), min(int(match[2] or size - 1), size - 1) + 1) if match else (0, size)
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for name in ("ETag", "X-Linked-Etag"):
            self.send_header(name, f'"{self.sha256}"')
        self.send_header("X-Linked-Size", str(size))
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.flush()
        if self.command == "HEAD":
            return
        with self.file.open("rb") as stream, contextlib.suppress(OSError):  # the client has what it wanted
            while start < end:
                sent = os.sendfile(self.connection.fileno(), stream.fileno(), start, min(end - start, BLOCK_BYTES))
                with LOCK:
                    Handler.sent_bytes += sent
                start += sent


@contextlib.contextmanager
def serving(folder: Path, size_bytes: int) -> Iterator[Large]:
    """A file of that many random bytes."""
    path, digest = folder / NAME, hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size_bytes, 1 << 20):
            block = os.urandom(min(1 << 20, size_bytes - start))
            digest.update(block)
            file.write(block)
    argv = [sys.executable, "-m", "tests.peers.large", str(path), digest.hexdigest()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield Large(process.stdout.readline().strip(), digest.hexdigest(), size_bytes)
        finally:
            process.terminate()


if __name__ == "__main__":
    Handler.file, Handler.sha256 = Path(sys.argv[1]), sys.argv[2]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
