"""The files that a package index lists: PEP 503 (HTML), PEP 691 (JSON), or one page of links. Standard library only."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser

from jingxiang.locks import LockedPackage

ENDINGS = (".whl", ".tar.gz")


@dataclass(frozen=True)
class File:
    """Where a file lies, and its SHA-256 and length where the list says them (else empty, None)."""

    url: str
    sha256: str
    size_bytes: int | None = None

    @property
    def name(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path).rpartition("/")[2]


def files(body: bytes, url: str) -> list[File]:
    """Wheels and source archives listed on the page at `url`; none if it is no index."""
    listed = _of_json(body) if body.lstrip().startswith(b"{") else _of_html(body)
    found = [File(urllib.parse.urljoin(url, address), sha256, size) for address, sha256, size in listed]
    return [file for file in found if file.name.endswith(ENDINGS)]


def of_version(listed: Iterable[File], package: LockedPackage) -> list[File]:
    """Those of the locked version."""
    pattern = re.compile(rf"{re.escape(f'{_normal(package.name)}-{package.version}')}(-|\.tar\.gz$)", re.IGNORECASE)
    return [file for file in listed if pattern.match(_normal_file(file.name))]


def locked(listed: Iterable[File], package: LockedPackage) -> File | None:
    """One with a locked hash, else one whose hash is not said; a wheel before a source archive. None: hashes differ."""
    fitting = [file for file in listed if not file.sha256 or file.sha256 in package.hashes]
    return min(fitting, key=lambda file: (not file.sha256, not file.name.endswith(".whl")), default=None)


def _of_json(body: bytes) -> Iterable[tuple[str, str, int | None]]:
    try:
        listed = json.loads(body).get("files")
    except ValueError:
        return
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict) and isinstance(each.get("url"), str):
            hashes, size = each.get("hashes"), each.get("size")
            sha256 = str(hashes.get("sha256", "")) if isinstance(hashes, dict) else ""
            yield each["url"], sha256, size if type(size) is int and size >= 0 else None


def _of_html(body: bytes) -> Iterable[tuple[str, str, int | None]]:
    anchors = _Anchors()
    anchors.feed(body.decode("utf-8", "replace"))
    for address in anchors.addresses:
        url, _, fragment = address.partition("#")
        kind, _, digest = fragment.partition("=")
        yield url, digest if kind == "sha256" else "", None


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _normal(name: str) -> str:
    """PEP 503, with the underscore that file names have."""
    return re.sub(r"[-_.]+", "_", name).lower()


def _normal_file(name: str) -> str:
    """A file's name with that of its project as `_normal` gives it; in old source archives that may have hyphens."""
    project, _, rest = name.rpartition("-") if name.endswith(".tar.gz") else name.partition("-")
    return f"{_normal(project)}-{rest}"
