"""Debian's Chromium, as somebody uses it who was never here before: nothing is stored, nothing outside is reached."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.peers import system

DESKTOP = (1440, 900)
PHONE = (390, 844)
ENGLISH, CHINESE = "en-US", "zh-CN"
GRAVE = ("serious", "critical")
IN_PAGE = ("data", "blob", "about")  # addresses that lead nowhere
# What links let the browser do is no request, and not done at all without a network.
HINTS = "() => [...document.querySelectorAll('link[rel~=preconnect], link[rel~=dns-prefetch]')].map(link => link.href)"
# Hosts that Chromium asks by itself, whatever it is told.
MAKERS = (
    "update.googleapis.com", "content-autofill.googleapis.com", "accounts.google.com", "clients2.google.com",
    "www.google.com", "redirector.gvt1.com",
)  # fmt: skip


@dataclass(frozen=True)
class Violation:
    """What axe-core finds wrong in a page. `places`: CSS selectors of the elements, with what is wrong there."""

    rule: str
    impact: str
    help: str
    places: tuple[str, ...]


@dataclass
class Visitor:
    """Somebody with a profile of their own: cookies and storage are shared by their pages alone.

    `asked`: every address that they have asked for, sockets included; `errors`: what their pages have complained of.
    """

    context: BrowserContext
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, url: str) -> Page:
        """A new tab with that address in it."""
        page = self.context.new_page()
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.goto(url)
        return page

    def hosts(self) -> set[str]:
        """HOST:PORT of everything that was asked for, or that an open page has told the browser to prepare for."""
        found = [*self.asked, *(url for page in self.context.pages for url in page.evaluate(HINTS))]
        return {urlsplit(url).netloc for url in found if urlsplit(url).scheme not in IN_PAGE}


@dataclass
class Chromium:
    """A running browser. `outside`: the first line of whatever it has tried to send to other machines."""

    browser: Browser
    outside: list[str]

    @contextlib.contextmanager
    def visitor(
        self, locale: str = ENGLISH, size: tuple[int, int] = DESKTOP, *, scale: float = 1, **options: Any
    ) -> Iterator[Visitor]:
        """`size` in CSS pixels, each of which is `scale` pixels of the screen wide; `options` as for `new_context`."""
        viewport = {"width": size[0], "height": size[1]}
        context = self.browser.new_context(locale=locale, viewport=viewport, device_scale_factor=scale, **options)
        visitor = Visitor(context)
        context.on("request", lambda request: visitor.asked.append(request.url))
        try:
            yield visitor
        finally:
            context.close()


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[Chromium]:
    """A browser with a new profile. Whatever does not go to loopback goes to a proxy that notes and refuses it.

    One at a time: playwright cannot be started twice in a thread.
    """
    path = system.browser()
    with _refusing() as (proxy, lines), sync_playwright() as playwright:
        # As an argument: with playwright's own setting, loopback would go there, too.
        words = [*system.CHROMIUM, f"--proxy-server={proxy}", *arguments]
        browser = playwright.chromium.launch(executable_path=path, args=words)
        try:
            yield Chromium(browser, lines)
        finally:
            browser.close()


def axe(page: Page) -> list[Violation]:
    """What axe-core finds in the page that is serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        Violation(each["id"], each["impact"], each["help"], tuple(map(_place, each["nodes"])))
        for each in found
        if each["impact"] in GRAVE
    ]


def _place(node: dict[str, Any]) -> str:
    summary = " ".join(node.get("failureSummary", "").split())
    return f"{' '.join(map(str, node['target']))}: {summary}"


@contextlib.contextmanager
def _refusing() -> Iterator[tuple[str, list[str]]]:
    """A proxy that lets nothing through: its address, and what was asked of it."""
    lines: list[str] = []

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                line = self.rfile.readline(1 << 16).decode("latin-1").strip()
                if not any(f"{host}:" in line or f"{host}/" in line for host in MAKERS):
                    lines.append(line)
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", lines
    finally:
        server.shutdown()
        server.server_close()
