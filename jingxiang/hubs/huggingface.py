"""The Hub's own protocol, which its mirrors speak too: the files of a repository, by the names that git has for them.

Through the fetch engine's client, because huggingface_hub asks a dead mirror for 23 seconds, tells only its log why,
and believes whatever has the right length. Routes: https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import urllib.parse
from pathlib import Path
from typing import Any

from jingxiang.errors import JingxiangError
from jingxiang.fetch import artifacts, faults
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.language import tr
from jingxiang.mirrors import Source
from jingxiang.weights import LockedFile

TIMEOUT_S, SLOWEST_BYTES_PER_S = 20.0, 20_000
NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="next"')
# What a hub answers to those who have not accepted a licence.
CLOSED = (401, 403)


class Refused(JingxiangError):
    """The repository is there, and its owner wants to know who you are."""

    def __init__(self, repository: str, *, token: bool) -> None:
        if token:
            text = tr("{repository}: your token may not see it: accept its licence first", repository=repository)
        else:
            text = tr("{repository}: is only for those who have accepted its licence", repository=repository)
        super().__init__(
            text,
            hints=(
                tr("log in and accept at {url}", url=f"https://huggingface.co/{repository}"),
                tr("make a token at {url}, then: export HF_TOKEN=…", url="https://huggingface.co/settings/tokens"),
            ),
        )


class NotShown(JingxiangError):
    """Mirrors want to know who asks, and are not told; the Hub, which would be, did not answer."""

    def __init__(self, reason: JingxiangError) -> None:
        hint = tr("a mirror sees your token only if mirrors.local.toml says `send_token = true` for it")
        super().__init__(reason.message, hints=(hint, *reason.hints))


def token() -> str:
    """What the user has for the Hub: HF_TOKEN, else what `hf auth login` has left; empty if nothing."""
    if found := os.environ.get("HF_TOKEN", "").strip():
        return found
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or home / "token").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def listed(client: Client, source: Source, repository: str, revision: str, *, token: str) -> list[LockedFile]:
    """All files of a repository at a revision, large ones by SHA-256, others by git's name.

    `token` is shown only where the source may see it. Raises `Fault`.
    """
    name = source.repository(repository)
    address = f"{source.url.rstrip('/')}/api/models/{name}/tree/{revision}"
    query, asked = "recursive=true&expand=false", set[str]()
    found: list[LockedFile] = []
    while query and query not in asked:
        asked.add(query)
        reply = client.page(f"{address}?{query}", seconds=TIMEOUT_S, authorization=_authorization(source, token))
        try:
            found += [_file(each) for each in json.loads(reply.body) if each["type"] == "file"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise faults.of_body(reply.status, reply.body) from None
        # Only where in the list it goes on is taken from it: a mirror may name the Hub there, and no host but the one
        # that was meant is to see the token.
        following = NEXT.search(reply.headers.get("Link") or "")
        query = urllib.parse.urlsplit(following[1]).query if following else ""
    return found


def content(client: Client, source: Source, repository: str, revision: str, file: LockedFile, *, token: str) -> bytes:
    """A small file, from a hub of any layout, checked by git's name of it. Raises `Fault`."""
    url = artifacts.address(source, Artifact("hub", file.path, (), file.size, repository, revision, file.path))
    seconds = TIMEOUT_S + file.size / SLOWEST_BYTES_PER_S
    body = client.page(url, seconds=seconds, authorization=_authorization(source, token)).body
    if git_name(body) != file.git:
        raise Fault(Kind.CORRUPT, tr("checksum differs"))
    return body


def closed(reason: str) -> bool:
    """Whether a mirror's words mean that it wants to know who asks."""
    return reason.startswith(tuple(map(str, CLOSED)))


def git_name(body: bytes) -> str:
    """What git calls a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def _authorization(source: Source, token: str) -> str:
    return f"Bearer {token}" if token and source.send_token else ""


def _file(entry: dict[str, Any]) -> LockedFile:
    sha256 = str((entry.get("lfs") or {}).get("oid", ""))
    return LockedFile(str(entry["path"]), int(entry["size"]), sha256, "" if sha256 else str(entry["oid"]))
