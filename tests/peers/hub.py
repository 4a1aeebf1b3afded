"""The Hub's own protocol over the files of a `Mirror`: what huggingface_hub asks for, and what it wants in the answers.

Routes and headers are those of ../shared/facts/hub.md, sections 1 and 2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from tests.peers.mirror import Mirror

LARGE_BYTES = 1 << 20
LARGE_ENDINGS = (".safetensors", ".bin", ".pt", ".gguf")


def add(mirror: Mirror, repository: str, files: Mapping[str, bytes]) -> str:
    """Serve a repository; returns its revision."""
    tree = [_entry(path, body) for path, body in sorted(files.items())]
    revision = hashlib.sha1(json.dumps(tree).encode(), usedforsecurity=False).hexdigest()
    info = {
        "id": repository, "modelId": repository, "sha": revision, "private": False, "gated": False, "tags": [],
        "downloads": 0, "likes": 0, "siblings": [{"rfilename": path} for path in sorted(files)],
    }  # fmt: skip
    commit = {"X-Repo-Commit": revision, "Content-Type": "application/json"}
    for name in ("main", revision):
        mirror.files[f"/api/models/{repository}/revision/{name}"] = json.dumps(info).encode()
        for query in ("", "?recursive=true&expand=false", "?recursive=True&expand=False"):
            mirror.files[f"/api/models/{repository}/tree/{name}{query}"] = json.dumps(tree).encode()
        for path, body in files.items():
            mirror.files[f"/{repository}/resolve/{name}/{path}"] = body
            mirror.headers[f"/{repository}/resolve/{name}/{path}"] = _headers(path, body, revision)
    for path in mirror.files:
        if path.startswith("/api/"):
            mirror.headers[path] = commit
    return revision


def _entry(path: str, body: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(body), "oid": _git(body)}
    if _large(path, body):
        entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return entry


def _headers(path: str, body: bytes, revision: str) -> dict[str, str]:
    headers = {"X-Repo-Commit": revision, "ETag": f'"{_git(body)}"', "Accept-Ranges": "bytes"}
    if _large(path, body):
        digest = hashlib.sha256(body).hexdigest()
        headers |= {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
    return headers


def _large(path: str, body: bytes) -> bool:
    return len(body) >= LARGE_BYTES or path.endswith(LARGE_ENDINGS)


def _git(body: bytes) -> str:
    """The name that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
