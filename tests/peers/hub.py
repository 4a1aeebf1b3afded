"""The Hub's own protocol over the files of a `Mirror`: what huggingface_hub asks for, and what it wants in the answers.

Routes and headers are those of ../shared/facts/hub.md, sections 1 and 2.
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler

from tests.peers import faults
from tests.peers.mirror import Mirror

LARGE_BYTES = 1 << 20
LARGE_ENDINGS = (".safetensors", ".bin", ".pt", ".gguf")


def add(
    mirror: Mirror, repository: str, files: Mapping[str, bytes], *, token: str = "", cdn: Mirror | None = None
) -> str:
    """Serve a repository; returns its revision. `token`: only to who shows it; `cdn`: keeps the large files."""
    tree = [_entry(path, body) for path, body in sorted(files.items())]
    revision = hashlib.sha1(json.dumps(tree).encode(), usedforsecurity=False).hexdigest()
    info = {
        "id": repository, "modelId": repository, "sha": revision, "private": False, "gated": False, "tags": [],
        "downloads": 0, "likes": 0, "siblings": [{"rfilename": path} for path in sorted(files)],
    }  # fmt: skip
    commit = {"X-Repo-Commit": revision, "Content-Type": "application/json"}
    mirror.files[f"/api/models/{repository}"] = json.dumps(info).encode()
    for name in ("main", revision):
        mirror.files[f"/api/models/{repository}/revision/{name}"] = json.dumps(info).encode()
        mirror.answers[f"/api/models/{repository}/paths-info/{name}"] = _paths_info(mirror, tree)
        # olah asks for the tree with a slash at its end
        plain = ("", "?recursive=true&expand=false", "?recursive=True&expand=False")
        for query in (*plain, *(f"/{each}" for each in plain)):
            mirror.files[f"/api/models/{repository}/tree/{name}{query}"] = json.dumps(tree).encode()
        for path, body in files.items():
            mirror.files[f"/{repository}/resolve/{name}/{path}"] = body
            mirror.headers[f"/{repository}/resolve/{name}/{path}"] = _headers(path, body, revision)
            if cdn and _large(path, body):
                cdn.files[f"/{repository}/resolve/{name}/{path}"] = body
    for path in mirror.files:
        if path.startswith("/api/"):
            mirror.headers[path] = commit
        if (token or cdn) and f"/{repository}/" in f"{path}/":
            mirror.answers[path] = _guarded(mirror, token, cdn)
    return revision


def _guarded(mirror: Mirror, token: str, cdn: Mirror | None) -> Callable[[BaseHTTPRequestHandler], None]:
    """401 to those who show no token, 403 to others, with the Hub's own code; 302 for what is elsewhere."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        shown = request.headers.get("Authorization")
        if token and shown != f"Bearer {token}":
            faults.status(403 if shown else 401, {"X-Error-Code": "GatedRepo"})(mirror, request)
        elif cdn and request.path in cdn.files:
            headers = {**mirror.headers[request.path], "Location": cdn.url + request.path}
            mirror.start(request, b"", headers, 302)
        else:
            mirror.send(request, mirror.files[request.path])

    return answer


def _paths_info(mirror: Mirror, tree: Sequence[Mapping[str, object]]) -> Callable[[BaseHTTPRequestHandler], None]:
    """POST: what is known of some paths, asked for as JSON or as a form."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", "0"))).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else urllib.parse.parse_qs(body).get("paths", [])
        found = json.dumps([entry for entry in tree if entry["path"] in asked]).encode()
        mirror.send(request, found, {"Content-Type": "application/json"})

    return answer


def _entry(path: str, body: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(body), "oid": git_name(body)}
    if _large(path, body):
        entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return entry


def _headers(path: str, body: bytes, revision: str) -> dict[str, str]:
    headers = {"X-Repo-Commit": revision, "ETag": f'"{git_name(body)}"', "Accept-Ranges": "bytes"}
    if _large(path, body):
        digest = hashlib.sha256(body).hexdigest()
        headers |= {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
    return headers


def _large(path: str, body: bytes) -> bool:
    return len(body) >= LARGE_BYTES or path.endswith(LARGE_ENDINGS)


def git_name(body: bytes) -> str:
    """The name that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
