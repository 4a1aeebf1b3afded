"""A registry that images can be pushed to: everything in memory, with logins, and with the ways in which pushes fail.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK_BYTES = 64 << 10
PATH = re.compile(r"/v2/(?P<repository>.+?)/(?P<kind>blobs/uploads|blobs|manifests)/(?P<what>[^/]*)")
Query = dict[str, str]


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@dataclass
class Seen:
    """A request: `path` without its query, `got`: bytes of its body that have arrived."""

    method: str
    path: str
    query: Query
    headers: dict[str, str]
    got: int = 0


Fault = Callable[["PushRegistry", BaseHTTPRequestHandler, Seen], bool]


@dataclass
class PushRegistry:
    """`blobs` and `manifests` by repository. `login`: user and password that it wants, with `tokens` by way of its own
    token server. `faults` are asked before each request; one that answers it returns True.
    """

    address: str = ""
    blobs: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)
    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict, repr=False)
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    login: tuple[str, str] = ("", "")
    identity: str = ""  # a refresh token that it takes
    tokens: bool = False
    granted: dict[str, set[str]] = field(default_factory=dict)  # scopes by token
    subjects: bool = False  # whether it lists referrers by itself
    uploads_at: str = ""  # base address of uploads, where that is another host
    forgetful: bool = False  # an upload that was cut off is gone, as with distribution 2.8
    numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, *methods: str) -> list[str]:
        """Method and path of the requests so far; `methods`: only these."""
        return [f"{each.method} {each.path}" for each in self.seen if not methods or each.method in methods]

    def expire(self) -> None:
        """No token counts any more."""
        self.granted.clear()

    def put_blob(self, repository: str, body: bytes) -> None:
        self.blobs.setdefault(repository, {})[digest(body)] = body

    # What is asked.

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        path, _, query = request.path.partition("?")
        seen = Seen(request.command, path, dict(urllib.parse.parse_qsl(query)), dict(request.headers.items()))
        self.seen.append(seen)
        if path == "/token":
            self._token(request, seen, query)
            return
        for fault in list(self.faults):
            if fault(self, request, seen):
                return
        match = PATH.fullmatch(path)
        if not match:
            self.fail(request, 404, "NAME_UNKNOWN")
        elif path.startswith("/v2/") and not self._lets_in(seen, match["repository"]):
            self.challenge(request, match["repository"])
        elif match["kind"] == "manifests":
            self._manifest(request, match["repository"], match["what"])
        elif match["kind"] == "blobs":
            blob = self.blobs.get(match["repository"], {}).get(match["what"])
            self.answer(request, 404) if blob is None else self.answer(request, 200, blob)
        elif request.command == "POST":
            self._open(request, seen, match["repository"])
        else:
            self._upload(request, seen, match["repository"], match["what"])

    def answer(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def fail(self, request: BaseHTTPRequestHandler, status: int, code: str, message: str = "as it is") -> None:
        """What is left of the request is not read: the connection ends."""
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        request.close_connection = True
        self.answer(request, status, body, {"Connection": "close"})

    def challenge(self, request: BaseHTTPRequestHandler, repository: str) -> None:
        kind = 'Basic realm="tests"'
        if self.tokens:
            scope = f"repository:{repository}:pull"
            kind = f'Bearer realm="http://{self.address}/token",service="tests",scope="{scope}"'
        request.close_connection = True
        self.answer(request, 401, b"{}", {"WWW-Authenticate": kind, "Connection": "close"})

    def read(self, request: BaseHTTPRequestHandler, seen: Seen, into: bytearray, most: int | None = None) -> None:
        """The body, as it arrives, or at most so much of it."""
        left = int(request.headers.get("Content-Length") or 0)
        left = left if most is None else min(left, most)
        while left and (block := request.rfile.read(min(left, BLOCK_BYTES))):
            into += block
            seen.got += len(block)
            left -= len(block)
        if left:
            raise ConnectionResetError

    def _lets_in(self, seen: Seen, repository: str) -> bool:
        shown = seen.headers.get("Authorization", "")
        if self.tokens:
            scopes = self.granted.get(shown.removeprefix("Bearer "), set())
            wanted = {f"repository:{repository}:pull,push"}
            wanted |= {f"repository:{seen.query['from']}:pull"} if "from" in seen.query else set()
            return wanted <= scopes
        return not any(self.login) or shown == self.basic

    @property
    def basic(self) -> str:
        return f"Basic {base64.b64encode(':'.join(self.login).encode()).decode()}"

    def _token(self, request: BaseHTTPRequestHandler, seen: Seen, query: str) -> None:
        form = query
        if request.command == "POST":
            body = bytearray()
            self.read(request, seen, body)
            form = body.decode()
        asked = urllib.parse.parse_qs(form)
        proven = asked.get("refresh_token") == [self.identity] if request.command == "POST" else (
            not any(self.login) or seen.headers.get("Authorization") == self.basic
        )  # fmt: skip
        if not proven or asked.get("service") != ["tests"]:
            self.fail(request, 401, "UNAUTHORIZED", "wrong user or password")
            return
        token = f"token-{len(self.seen)}"
        self.granted[token] = {scope for each in asked["scope"] for scope in each.split()}
        name = "access_token" if request.command == "POST" else "token"
        self.answer(request, 200, json.dumps({name: token}).encode())

    def _open(self, request: BaseHTTPRequestHandler, seen: Seen, repository: str) -> None:
        blob = self.blobs.get(seen.query.get("from", ""), {}).get(seen.query.get("mount", ""))
        if blob is not None:
            self.put_blob(repository, blob)
            self.answer(request, 201, headers={"Location": f"/v2/{repository}/blobs/{digest(blob)}"})
            return
        with self.lock:
            name = f"upload-{next(self.numbers)}"  # no two that are under way may have one name
            self.uploads[name] = bytearray()
        self._went_on(request, 202, repository, name)

    def _went_on(self, request: BaseHTTPRequestHandler, status: int, repository: str, name: str) -> None:
        location = f"{self.uploads_at}/v2/{repository}/blobs/uploads/{name}?_state=a%2Fb"
        last = max(len(self.uploads[name]) - 1, 0)
        self.answer(request, status, headers={"Location": location, "Range": f"0-{last}"})

    def _upload(self, request: BaseHTTPRequestHandler, seen: Seen, repository: str, name: str) -> None:
        upload = self.uploads.get(name)
        if upload is None or seen.query.get("_state") != "a/b":
            self.fail(request, 404, "BLOB_UPLOAD_UNKNOWN")
        elif request.command == "GET":
            self._went_on(request, 204, repository, name)
        elif request.command == "DELETE":
            del self.uploads[name]
            self.answer(request, 204)
        else:
            span = request.headers.get("Content-Range")
            if span and int(span.partition("-")[0]) != len(upload):
                self.fail(request, 416, "RANGE_INVALID")
                return
            try:
                self.read(request, seen, upload)
            except OSError:
                self._lost(name)
                raise
            if request.command == "PATCH":
                self._went_on(request, 202, repository, name)
            elif digest(bytes(upload)) != seen.query["digest"]:
                self.fail(request, 400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            else:
                self.put_blob(repository, bytes(self.uploads.pop(name)))
                self.answer(request, 201, headers={"Docker-Content-Digest": seen.query["digest"]})

    def _lost(self, name: str) -> None:
        if self.forgetful:
            self.uploads.pop(name, None)

    def _manifest(self, request: BaseHTTPRequestHandler, repository: str, what: str) -> None:
        there = self.manifests.setdefault(repository, {})
        if request.command != "PUT":
            kind, body = there.get(what, ("", b""))
            headers = {"Content-Type": kind, "Docker-Content-Digest": digest(body)}
            self.answer(request, 200 if kind else 404, body, headers if kind else None)
            return
        whole = bytearray()
        self.read(request, self.seen[-1], whole)
        body, values = bytes(whole), json.loads(whole)
        blobs = [each["digest"] for each in (*values.get("layers", ()), *filter(None, [values.get("config")]))]
        listed = [each["digest"] for each in values.get("manifests", ())]
        if not set(blobs) <= self.blobs.get(repository, {}).keys() or not set(listed) <= there.keys():
            self.fail(request, 400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
            return
        there[what] = there[digest(body)] = (request.headers["Content-Type"], body)
        headers = {"Docker-Content-Digest": digest(body)}
        if self.subjects and "subject" in values:
            headers["OCI-Subject"] = values["subject"]["digest"]
        self.answer(request, 201, headers=headers)


def on(method: str, part: str, answer: Fault, *, times: int = 1) -> Fault:
    """The first requests of a kind whose path has `part` in it."""
    lock, left = threading.Lock(), [times]

    def fault(registry: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        if seen.method != method or part not in seen.path:
            return False
        with lock:
            if not left[0]:
                return False
            left[0] -= 1
        return answer(registry, request, seen)

    return fault


def says(status: int, code: str = "UNKNOWN", message: str = "as it is", headers: dict[str, str] | None = None) -> Fault:
    """An answer before anything of the body is read."""

    def fault(registry: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        request.close_connection = True
        registry.answer(request, status, body, {"Connection": "close", **(headers or {})})
        return True

    return fault


def cut(after: int, *, reset: bool = False) -> Fault:
    """So many bytes of an upload's body are taken, then the connection breaks."""

    def fault(registry: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        name = seen.path.rpartition("/")[2]
        registry.read(request, seen, registry.uploads[name], after)
        registry._lost(name)
        if reset:
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
        return True

    return fault


def unanswered(registry: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
    """It does what it is asked for, and the answer is lost."""
    name = seen.path.rpartition("/")[2]
    upload = registry.uploads.pop(name)
    registry.read(request, seen, upload)
    registry.put_blob(seen.path.split("/blobs/")[0].removeprefix("/v2/"), bytes(upload))
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True
    return True


@contextlib.contextmanager
def serving() -> Iterator[PushRegistry]:
    """An empty registry on this machine."""
    registry = PushRegistry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client has gone, or is sent away
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            pass

    for method in ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", lambda self: registry.handle(self))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    registry.address = f"127.0.0.1:{server.server_port}"
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
