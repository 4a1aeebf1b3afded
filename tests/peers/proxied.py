"""A mirror of the index that pip on this machine is set to: its real pages and files, by way of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from jingxiang import pip_client
from jingxiang.fetch import faults, network
from jingxiang.fetch.artifacts import TAIL
from jingxiang.fetch.client import Client
from jingxiang.fetch.indexes import ACCEPT
from jingxiang.simple_index import File, files
from tests.peers import system
from tests.peers.faults import Fault
from tests.peers.mirror import Mirror

PAGE_S, FILE_BYTES = 30.0, 64 << 20


class Upstream:
    """What the index has, asked once for each page and file. Used by one thread at a time and project."""

    def __init__(self, pip: Path) -> None:
        self._settings = pip_client.settings(pip)
        self._client = Client(network.of(self._settings))
        self._pages: dict[str, list[File]] = {}
        self._bodies: dict[str, bytes] = {}
        try:
            self.files("pip")
        except faults.Fault as fault:
            system.require(False, f"the index that pip is set to does not answer: {fault.text}")

    def close(self) -> None:
        self._client.close()

    def files(self, project: str) -> list[File]:
        if project not in self._pages:
            url = f"{self._settings['index-url'].rstrip('/')}/{project}/"
            page = self._client.page(url, seconds=PAGE_S, accept=ACCEPT)
            self._pages[project] = files(page.body, page.url)
        return self._pages[project]

    def file(self, tail: str) -> File | None:
        """The file with such an address, if its page has been asked for."""
        return next((each for page in list(self._pages.values()) for each in page if _tail(each) == tail), None)

    def body(self, file: File) -> bytes:
        if file.url not in self._bodies:
            reply = self._client.sample(file.url, seconds=PAGE_S, limit=FILE_BYTES)
            assert len(reply.body) == reply.total, file.name
            self._bodies[file.url] = reply.body
        return self._bodies[file.url]


def serve(
    mirror: Mirror,
    upstream: Upstream,
    *,
    listed: Callable[[str, list[File]], list[File]] = lambda _, found: found,
    fault: Callable[[str], Fault | None] = lambda _: None,
) -> None:
    """Make a mirror hand on what the index has: pages with addresses of its own, and files when they are asked for.

    `listed` may change what a project's page says, `fault` choose a way to fail for a path.
    """

    def answer(request: BaseHTTPRequestHandler) -> None:
        path = request.path
        if path not in mirror.files and path.startswith("/simple/"):
            project = path.split("/")[2]
            found = listed(project, upstream.files(project))
            links = [f'<a href="/packages/{_tail(each)}#sha256={each.sha256}">{each.name}</a>\n' for each in found]
            mirror.files[path] = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
            mirror.headers[path] = {"Content-Type": "text/html"}
        elif path not in mirror.files and (file := upstream.file(path.removeprefix("/packages/"))):
            mirror.files[path] = upstream.body(file)
        with contextlib.suppress(OSError):  # the client has gone
            if path not in mirror.files:
                request.send_error(404)
            elif chosen := fault(path):
                chosen(mirror, request)
            else:
                mirror.send(request, mirror.files[path], mirror.headers.get(path))

    mirror.answers[""] = answer


def _tail(file: File) -> str:
    match = TAIL.search(file.url)
    return match[0] if match else file.name
