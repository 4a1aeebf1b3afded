"""What the package indexes of the mirrors list: each page is read once in a run, and any of them may lie or be old."""

from __future__ import annotations

import re
import threading
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jingxiang import simple_index
from jingxiang.fetch import faults
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.language import tr
from jingxiang.mirrors import Source
from jingxiang.simple_index import File

PAGE_S = 6.0
# PEP 691 before PEP 503, as pip asks.
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.2, text/html; q=0.1"
YES = ("1", "true", "yes", "on", "y", "t")  # as pip reads it
# What a list names, whether it is of use here or not; the links of a web page lead to other things.
LISTED = re.compile(rb"\.(whl|egg|exe|msi|rpm|zip|tgz|tar\.\w+)\b|\"files\"\s*:")


@dataclass(frozen=True)
class Configured:
    """Where pip on this machine looks, which is what `official` means: indexes, and pages or folders of links."""

    indexes: tuple[str, ...]
    links: tuple[str, ...]


def configured(settings: Mapping[str, str]) -> Configured:
    """From pip's settings, as `pip_client.settings` gives them."""
    links = tuple(settings.get("find-links", "").split())
    if settings.get("no-index", "").lower() in YES:
        return Configured((), links)
    indexes = f"{settings.get('index-url', '')} {settings.get('extra-index-url', '')}"
    return Configured(tuple(indexes.split()), links)


class Indexes:
    """The lists of all sources, for threads that ask for them at the same time."""

    def __init__(self, client: Client, official: Configured) -> None:
        self._client = client
        self._official = official
        self._lists: dict[str, _List] = {}
        self._lock = threading.Lock()

    def files(self, source: Source, project: str, build: str = "") -> tuple[File, ...]:
        """Everything that a source lists of a project (a flat page: of all projects). Raises `Fault`."""
        if source.url:
            base = source.address(build)
            return self._list(base if source.layout == "flat" else _page(base, project))
        found: dict[tuple[str, str], File] = {}
        problems = []
        for url in [*(_page(index, project) for index in self._official.indexes), *self._official.links]:
            try:
                found = {(file.name, file.sha256): file for file in self._list(url)} | found
            except Fault as fault:
                problems.append(fault)
        if problems and not found:
            raise problems[0]
        return tuple(found.values())

    def file(self, source: Source, project: str, build: str, name: str, hashes: Collection[str]) -> File:
        """Where a source has a file of that name. Raises `Fault` if it lists none, or one with another hash."""
        found = [file for file in self.files(source, project, build) if file.name == name]
        if not found:
            raise Fault(Kind.STALE, tr("does not list it: not synced yet"))
        fitting = [file for file in found if not file.sha256 or file.sha256 in hashes]
        if not fitting:
            raise Fault(Kind.CORRUPT, tr("checksum differs in its index"))
        return min(fitting, key=lambda file: not file.sha256)

    def _list(self, url: str) -> tuple[File, ...]:
        with self._lock:
            asked = self._lists.setdefault(url, _List())
        with asked.lock:
            if asked.files is None and asked.fault is None:
                try:
                    asked.files = self._read(url)
                except Fault as fault:
                    asked.fault = fault
        if asked.fault:
            if asked.fault.kind.again:
                with self._lock:
                    self._lists.pop(url, None)
            raise asked.fault
        assert asked.files is not None
        return asked.files

    def _read(self, url: str) -> tuple[File, ...]:
        if (folder := _folder(url)) and folder.is_dir() and not (folder / "index.html").exists():
            found = [path for path in sorted(folder.iterdir()) if path.is_file()]
            return tuple(File(path.as_uri(), "", path.stat().st_size) for path in found)
        page = self._client.page(folder.as_uri() if folder else url, seconds=PAGE_S, accept=ACCEPT)
        listed = simple_index.files(page.body, page.url)
        if not listed and not LISTED.search(page.body):
            raise faults.of_body(page.status, page.body)
        return tuple(replace(file, url=link) for file in listed if (link := _link(file.url, page.url)))


class _List:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: tuple[File, ...] | None = None
        self.fault: Fault | None = None


def _page(index: str, project: str) -> str:
    return f"{index.rstrip('/')}/{urllib.parse.quote(project)}/"


def _link(url: str, page: str) -> str:
    """The address of a listed file; empty for one that a server may not send us to, such as a file of this machine.

    A login in it counts only on the page's own host: another host's is none of its business.
    """
    link, own = urllib.parse.urlsplit(url), urllib.parse.urlsplit(page)
    if link.scheme not in ("https", "http") and not (link.scheme == own.scheme == "file"):
        return ""
    _, at, host = link.netloc.rpartition("@")
    return link._replace(netloc=host).geturl() if at and host != own.netloc.rpartition("@")[2] else url


def _folder(url: str) -> Path | None:
    """pip takes a plain path where it takes an address."""
    if "://" not in url:
        return Path(url).expanduser().absolute()
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)) if url.startswith("file://") else None
