"""`invoke bench page`: how soon the page is seen and can be used, what it weighs, what many open ones cost the server.

On loopback, in Debian's Chromium, with a browser that was never here before for each load. The peer, in the same run
and in turn: the page that gradio makes of a function from a picture to a video, on the same web server. It takes about
eight minutes on two cores, half of them to open many pages.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from playwright.sync_api import Page

from ci.bench.report import Figure, show
from tests.peers.app import ROOT, App, serving, wait_for
from tests.peers.browser import CHINESE, DESKTOP, ENGLISH, PHONE, Chromium, Visitor, axe, chromium
from tests.peers.system import free_port

LOADS = 3
OPEN = 20
SETTLE_S, IDLE_S = 5.0, 20.0
JOBS = 3  # that the page has to show
LIMIT_MS = 60_000
LATE_MS = 1500  # what is fetched after the page can be used is part of its weight
READY = """(() => {
  const button = document.querySelector("#standard");
  return document.documentElement?.dataset.ready === "true" && button !== null && !button.disabled;
})()"""
PEER_READY = 'document.querySelector("button.primary:not(:disabled)") !== null'
# In the page, so that the way to us is not in it.
WATCH = """(() => {
  const look = () => (%s) ? window.usableMs = performance.now() : requestAnimationFrame(look);
  look();
})()"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
PEER = """
import sys, fastapi, gradio as gr, uvicorn
page = gr.Interface(lambda image, prompt: None, [gr.Image(type="filepath"), gr.Textbox()], gr.Video())
application = gr.mount_gradio_app(fastapi.FastAPI(), page, path="/", ssr_mode=False)
uvicorn.run(application, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


@dataclass(frozen=True)
class Site:
    """A server with a page. `ready`: the JavaScript that is true when somebody can use it."""

    url: str
    ready: str
    process: psutil.Process


@dataclass(frozen=True)
class Load:
    """One load of a page, seconds since it was asked for; `outside`: what it wants of other hosts."""

    painted_s: float
    usable_s: float
    weight_bytes: int
    requests: int
    outside: frozenset[str]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jingxiang-bench-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        app = stack.enter_context(serving(folder / "models", folder))
        app.wait_until_ready()
        fill(app)
        ours = Site(app.url, READY, psutil.Process(app.process.pid))
        peer = stack.enter_context(plain())
        loads: dict[str, list[Load]] = {"ours": [], "peer": []}
        for _ in range(LOADS):
            loads["ours"].append(loaded(ours))
            loads["peer"].append(loaded(peer))
        (worker,) = ours.process.children()
        idle, of_worker = cost(ours, worker)
        idle_peer, _ = cost(peer)
        grave = unreadable(ours)
    first = loads["ours"][0]
    figures = [
        timed("first_paint_s", 1.5, loads, "painted_s"),
        timed("interactive_s", 3, loads, "usable_s"),
        weight(loads),
        Figure("idle20_core", round(idle, 3), "cores", 0.1, peers={"plain gradio page": round(idle_peer, 3)}),
        Figure("axe_serious", sum(map(len, grave.values())), "", 0),
        Figure("outside_requests", len(outside(loads["ours"])), "", 0,
               peers={"plain gradio page": len(outside(loads["peer"]))}),
    ]  # fmt: skip
    notes = [
        f"median of {LOADS} loads, each in a new browser; {first.requests} requests; {JOBS} finished jobs shown",
        f"{OPEN} open pages, {IDLE_S:.0f} s: the worker took {of_worker:.3f} cores besides",
        *(f"axe, {name}: {', '.join(rules)}" for name, rules in grave.items() if rules),
        *(f"asked of another host: {each}" for each in sorted(outside(loads["ours"]))),
    ]
    show("page", figures, notes)


def fill(app: App) -> None:
    """Jobs that are done, for the page to show."""
    photo = ROOT / "app" / "examples" / "boat.jpg"
    numbers = [app.post(photo, seed=seed).json()["id"] for seed in range(JOBS)]
    assert {app.ended(number)["state"] for number in numbers} == {"done"}


@contextlib.contextmanager
def plain() -> Iterator[Site]:
    """The peer, in a process of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-c", PEER, str(port)], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: answers(url))
            yield Site(url, PEER_READY, psutil.Process(process.pid))
        finally:
            process.kill()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20):  # noqa: S310 (our own http address)
            return True
    except OSError:
        return False


def loaded(site: Site) -> Load:
    with chromium() as browser, browser.visitor() as visitor:
        page, received = prepared(visitor, site)
        page.goto(site.url)
        page.wait_for_function("() => window.usableMs !== undefined", timeout=LIMIT_MS)
        page.wait_for_timeout(LATE_MS)
        ours = urlsplit(site.url).netloc
        return Load(
            painted_s=page.evaluate(PAINT) / 1000,
            usable_s=page.evaluate("() => window.usableMs") / 1000,
            weight_bytes=sum(received),
            requests=len(received),
            outside=frozenset([*(visitor.hosts() - {ours}), *browser.outside]),
        )


def prepared(visitor: Visitor, site: Site) -> tuple[Page, list[int]]:
    """An empty tab that will note when its page can be used, and the bytes of all that it has received."""
    page = visitor.context.new_page()
    received: list[int] = []
    line: Any = visitor.context.new_cdp_session(page)
    line.send("Network.enable")
    line.on("Network.loadingFinished", lambda event: received.append(int(event["encodedDataLength"])))
    page.add_init_script(WATCH % site.ready)
    return page, received


def cost(site: Site, worker: psutil.Process | None = None) -> tuple[float, float]:
    """Of many open pages that nobody does anything with: cores that the server takes, and its worker."""
    with chromium() as browser, ExitStack() as stack:
        for _ in range(OPEN):
            visitor = stack.enter_context(browser.visitor())
            page, _ = prepared(visitor, site)
            page.goto(site.url, timeout=LIMIT_MS)
            page.wait_for_function("() => window.usableMs !== undefined", timeout=LIMIT_MS)
        time.sleep(SETTLE_S)
        start, before = time.monotonic(), (cpu_s(site.process), cpu_s(worker))
        time.sleep(IDLE_S)
        seconds, after = time.monotonic() - start, (cpu_s(site.process), cpu_s(worker))
    return (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds


def cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def unreadable(site: Site) -> dict[str, list[str]]:
    """What axe-core finds serious or critical, by who looks."""
    found = {}
    with chromium() as browser:
        for locale in (ENGLISH, CHINESE):
            for size in (PHONE, DESKTOP):
                for scheme in ("light", "dark"):
                    name = f"{locale} {size[0]} px {scheme}"
                    found[name] = rules(browser, site, locale, size, scheme)
    return found


def rules(browser: Chromium, site: Site, locale: str, size: tuple[int, int], scheme: str) -> list[str]:
    """One for each element that breaks a rule."""
    with browser.visitor(locale, size, color_scheme=scheme, reduced_motion="reduce") as visitor:
        page, _ = prepared(visitor, site)
        page.goto(site.url)
        page.wait_for_function("() => window.usableMs !== undefined", timeout=LIMIT_MS)
        page.wait_for_timeout(LATE_MS)  # colors in the middle of a transition are nobody's
        return [f"{each.rule} ({len(each.places)})" for each in axe(page)]


def timed(name: str, bar: float, loads: dict[str, list[Load]], field: str) -> Figure:
    ours, peer = (statistics.median(getattr(each, field) for each in loads[who]) for who in ("ours", "peer"))
    slowest = max(getattr(each, field) for each in loads["ours"])
    peers = {"plain gradio page": round(peer, 2), "the slowest of ours": round(slowest, 2)}
    return Figure(name, round(ours, 2), "s", bar, peers=peers)


def weight(loads: dict[str, list[Load]]) -> Figure:
    ours, peer = (statistics.median(each.weight_bytes for each in loads[who]) / 1e6 for who in ("ours", "peer"))
    return Figure("page_weight_mb", round(ours, 2), "MB", None, peers={"plain gradio page": round(peer, 2)})


def outside(loads: list[Load]) -> set[str]:
    return set().union(*(each.outside for each in loads))


if __name__ == "__main__":
    main()
