"""The web server: the port answers within half a second, before gradio or torch are imported.

/healthz   200 as soon as the process is up
/readyz    200 when the page is there and the model is loaded; until then 503 with what is missing
else       the page; until it is there, one that says so and tries again

SIGINT stops it soon. SIGTERM, which container engines send, lets a video that is being made come to its end, and lets
the page have it; a second one stops at once.
"""

from __future__ import annotations

import asyncio
import html
import ipaddress
import json
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from app.drain import Drain, Receive, Scope, Send, Visits
from app.engine import Engine
from app.texts import tr
from jingxiang import console, ports
from jingxiang.models import ModelSpec

if TYPE_CHECKING:
    import socket

    from app.page import Page

STOP_GRACE_S = 3
WAITING_PAGE = """<!doctype html><html lang="{language}"><meta charset="utf-8"><title>jingxiang</title>
<meta name="viewport" content="width=device-width"><noscript><meta http-equiv="refresh" content="1"></noscript>
<style>body{{font:16px system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}}
p{{margin:20vh auto;max-width:30em;text-align:center}}</style><p>{text}</p>
<script>setInterval(async () => {{
  const state = await (await fetch("readyz")).json();
  if (state.page) location.reload();
  if (state.reason) document.querySelector("p").textContent = state.reason;
}}, 200)</script></html>"""


class Front:
    """The ASGI application that is there from the start and hands over to the page when it is built."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.page: Visits | None = None
        self.problem = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in ("/healthz", "/readyz"):
            await (self._health(send) if scope["path"] == "/healthz" else self._readiness(send))
        elif self.page is not None:
            await self.page(scope, receive, send)
        elif scope["type"] == "http":
            await self._waiting(scope, send)

    @property
    def ready(self) -> bool:
        return self.page is not None and self.engine.ready and not self.engine.draining

    @property
    def status(self) -> str:
        if self.engine.draining:
            return "draining"
        return "ready" if self.ready else "failed" if self.problem or self.engine.reason else "loading"

    async def _health(self, send: Send) -> None:
        await _answer(send, 200, {"status": "ok"})

    async def _readiness(self, send: Send) -> None:
        state = {
            "status": self.status,
            "page": self.page is not None,
            "model": self.engine.spec.name,
            "model_loaded": self.engine.ready,
        }
        reason = self.problem or self.engine.reason
        await _answer(send, 200 if self.ready else 503, {**state, "reason": reason} if reason else state)

    async def _waiting(self, scope: Scope, send: Send) -> None:
        wanted = dict(scope["headers"]).get(b"accept-language", b"").decode("latin-1")
        language = "zh" if wanted.startswith("zh") else "en"
        text = self.problem or tr("The page is starting; it appears by itself.", language=language)
        page = WAITING_PAGE.format(language=language, text=html.escape(text)).encode()
        await _respond(send, 503, b"text/html; charset=utf-8", page, (b"retry-after", b"1"))


async def _answer(send: Send, status: int, value: object) -> None:
    await _respond(send, status, b"application/json", json.dumps(value).encode())


async def _respond(send: Send, status: int, kind: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    start = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*start, *headers]})
    await send({"type": "http.response.body", "body": body})


class Server(uvicorn.Server):
    """Starts the worker and the page once the port answers, and stops them with it."""

    def __init__(
        self, config: uvicorn.Config, front: Front, outputs: Path, on_ready: Callable[[], None], *, drain_s: float
    ) -> None:
        super().__init__(config)
        self.front = front
        self.outputs = outputs
        self.on_ready = on_ready
        self.drain_s = drain_s
        self._page: Page | None = None
        self._is_asked_to_stop = False
        self._drain: Drain | None = None

    async def main_loop(self) -> None:
        tasks = [asyncio.create_task(self.front.engine.run()), asyncio.create_task(self._prepare())]
        try:
            await super().main_loop()
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    sys.stderr.write(f"{type(result).__name__}: {result}\n")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first SIGTERM is only noted. Other signals end the process, after the loop, as they would without us."""
        if sig == signal.SIGTERM and not (self._is_asked_to_stop or self.should_exit):
            self._is_asked_to_stop = True
            return
        if sig == signal.SIGTERM:
            self.force_exit = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s: whether it is time to stop."""
        if await super().on_tick(counter):
            return True
        if self._is_asked_to_stop and self._drain is None:
            self._drain = self._begin_drain()
        return self._drain is not None and self._is_over(self._drain)

    def _begin_drain(self) -> Drain:
        engine = self.front.engine
        engine.draining = True
        if self._page is not None:
            self._page.hurry()
        if engine.busy:
            limit = f"{self.drain_s:.0f}"
            console.line("video", tr("one is being made: the server stops after it, or after {limit} s", limit=limit))
        return Drain(time.monotonic(), self.drain_s)

    def _is_over(self, drain: Drain) -> bool:
        now, visits = time.monotonic(), self.front.page
        if visits is None:
            return True
        busy, results, answers = self.front.engine.busy, visits.results, visits.answers
        if drain.over(now, busy=busy, results=results, answers=answers, told=visits.told_s):
            return True
        if drain.is_late(now):
            limit = f"{self.drain_s:.0f}"
            console.warn(tr("stopped before the video was done: the {limit} s are over", limit=limit))
            self.handle_exit(signal.SIGTERM, None)
            return True
        return False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.front.page is not None:
            self.front.page.end_streams()
        await super().shutdown(sockets)

    async def _prepare(self) -> None:
        """Import gradio in a thread (the worker imports torch on another core meanwhile), mount the page, say READY."""
        async with AsyncExitStack() as stack:
            try:
                page = await asyncio.to_thread(_build_page, self.front.engine, self.outputs)
                application = page.application
                await stack.enter_async_context(application.router.lifespan_context(application))
            except Exception as error:  # the port stays up and says why there is no page
                self.front.problem = f"{type(error).__name__}: {error}"
                sys.stderr.write(tr("error: ") + self.front.problem + "\n")
                return
            self._page, self.front.page = page, Visits(application)
            await self.front.engine.settled()
            if self.front.ready:
                self.on_ready()
            else:
                sys.stderr.write(tr("error: ") + self.front.engine.reason + "\n")
            await asyncio.Event().wait()  # the page's own lifespan ends when we are cancelled


def _build_page(engine: Engine, outputs: Path) -> Page:
    # Before gradio is imported: else it makes a folder for all users of the machine that belongs to the first of them.
    os.environ["GRADIO_TEMP_DIR"] = str(outputs / ".gradio")
    from app import page

    return page.build(engine, outputs)


def serve(
    spec: ModelSpec, models: Path, outputs: Path, *, host: str, port: int, open_browser: bool, drain_s: float
) -> None:
    """Serve until SIGINT or SIGTERM. Prints `READY http://HOST:PORT` on stdout when /readyz answers 200.

    `drain_s`: how long a video that is being made may still take after SIGTERM.
    """
    listener = ports.bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        console.warn(tr("the page has no password: everybody who can reach {url} can use it", url=url))

    def on_ready() -> None:
        sys.stdout.write(f"READY {url}\n")
        sys.stdout.flush()
        if open_browser:  # in a thread: a browser in the terminal only returns when it is left
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    front = Front(Engine(spec, models))
    config = uvicorn.Config(
        front, lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_GRACE_S,
        server_header=False,
    )  # fmt: skip
    # A shell ignores SIGINT in what it starts with `&`; for us it means the same there as Ctrl-C in a terminal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Server(config, front, outputs, on_ready, drain_s=drain_s).run(sockets=[listener])
