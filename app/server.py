"""The web server: the port answers within half a second, before gradio or torch are imported.

/healthz        200 as soon as the process is up
/readyz         200 when the page is there and a worker takes jobs; until then 503 with what is missing
/api, /metrics  for programs, see `app.api`
/login, /logout  see `app.login`; only where there are passwords
else            the page; until it is there, one that says so and tries again

SIGINT stops it soon. SIGTERM, which container engines send, lets the videos that are being made come to their end, and
lets the page have them; what waits stays in the store for the next start. A second one stops at once.
"""

from __future__ import annotations

import asyncio
import html
import importlib
import json
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.datastructures import Headers

from app import garbage, guard, logs
from app.access import Access
from app.crew import Crew, Recruit
from app.drain import Application, Drain, Receive, Scope, Send, Visits
from app.texts import asked, tr
from jingxiang import console, ports
from jingxiang.errors import JingxiangError
from jingxiang.models import Catalog

if TYPE_CHECKING:
    import socket

    from app.desk import Desk
    from app.watch import Watch

STOP_GRACE_S = 3
READY_POLL_S = 0.1
GUARD_S = 2.0
SWEEP_ROUNDS = 150  # of GUARD_S
WAITING_PAGE = """<!doctype html><html lang="{language}"><meta charset="utf-8"><title>jingxiang</title>
<meta name="viewport" content="width=device-width"><noscript><meta http-equiv="refresh" content="1"></noscript>
<style>body{{font:16px system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}}
p{{margin:20vh auto;max-width:30em;text-align:center}}</style><p>{text}</p>
<script>setInterval(async () => {{
  const state = await (await fetch("readyz")).json();
  if (state.page) location.reload();
  if (state.reason) document.querySelector("p").textContent = state.reason;
}}, 200)</script></html>"""


@dataclass(frozen=True)
class Serving:
    """How the app is to be served. `has_workers`: on this machine, too; `jobs` and `media`: where the store, and the
    pictures and videos are.
    """

    catalog: Catalog
    recruit: Recruit
    has_workers: bool
    outputs: Path
    jobs: str
    media: str
    access: Access
    host: str
    port: int
    open_browser: bool
    drain_s: float
    waiting: int
    per_user: int
    keep_days: float
    keep_gb: float


class Front:
    """The ASGI application that is there from the start and hands over to the page when it is built."""

    def __init__(self, model: str, crew: Crew | None) -> None:
        self.model = model
        self.crew = crew
        self.desk: Desk | None = None
        self.visits: Visits | None = None  # of page and API, when they are there
        self.problem = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in ("/healthz", "/readyz"):
            await (self._health(send) if scope["path"] == "/healthz" else self._readiness(send))
        elif self.visits is not None:
            await self.visits(scope, receive, send)
        elif scope["type"] == "http":
            await self._waiting(scope, send)

    async def state(self) -> dict[str, object]:
        """What /readyz says."""
        state: dict[str, object] = {
            "status": "loading", "page": self.visits is not None, "model": self.model, "model_loaded": False,
            "queued": 0, "running": 0,
        }  # fmt: skip
        reason = self.problem
        desk = self.desk
        if desk is not None:
            try:
                workers = await asyncio.to_thread(desk.store.workers)
                depth = await asyncio.to_thread(desk.store.depth)
                state |= {"model": desk.model, "queued": depth["queued"], "running": depth["running"]}
            except JingxiangError as error:
                reason = error.message
            else:
                if self.crew is not None:  # those that another run has left are nobody's
                    workers = [worker for worker in workers if worker.name in self.crew.names]
                able = [worker for worker in workers if worker.takes_jobs]
                state["model_loaded"] = any(worker.model == desk.model for worker in able)
                if able and self.crew is not None:
                    self.crew.reason = ""
                if not able:
                    said = [worker.reason for worker in workers if worker.reason]
                    reason = reason or (said[0] if said else self.crew.reason if self.crew else "")
                elif self.visits is not None and not reason:
                    state["status"] = "ready"
            if desk.is_draining:
                state["status"] = "draining"
        if reason:
            state["reason"] = reason
            if state["status"] == "loading":
                state["status"] = "failed"
        return state

    async def _health(self, send: Send) -> None:
        await _answer(send, 200, {"status": "ok"})

    async def _readiness(self, send: Send) -> None:
        state = await self.state()
        await _answer(send, 200 if state["status"] == "ready" else 503, state)

    async def _waiting(self, scope: Scope, send: Send) -> None:
        language = asked(Headers(scope=scope))
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
    """Opens the store once the port answers, starts the workers and the page, and stops them with it."""

    def __init__(self, config: uvicorn.Config, front: Front, serving: Serving, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.front = front
        self.serving = serving
        self.on_ready = on_ready
        self._watch: Watch | None = None
        self._is_asked_to_stop = False
        self._is_busy = False
        self._drain: Drain | None = None

    async def main_loop(self) -> None:
        tried = asyncio.Event()
        tasks = [
            asyncio.create_task(self._work(tried)),
            asyncio.create_task(_page_modules(self.serving.outputs, tried)),
        ]
        try:
            await super().main_loop()
        finally:
            await _end(tasks)

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
        if self._is_asked_to_stop:
            self._is_busy = await self._makes_videos()
            self._drain = self._drain or self._begin_drain()
        return self._drain is not None and self._is_over(self._drain)

    async def _makes_videos(self) -> bool:
        """Whether a worker of this machine is in the middle of one."""
        desk, crew = self.front.desk, self.front.crew
        if desk is None or crew is None or not crew.is_at_work:
            return False
        try:
            running = await asyncio.to_thread(desk.store.jobs, states=("running",))
        except JingxiangError:  # a worker that is alive may still be at it
            return True
        return any(job.worker in crew.names for job in running)

    def _begin_drain(self) -> Drain:
        if self.front.desk is not None:
            self.front.desk.is_draining = True
        if self.front.crew is not None:
            self.front.crew.drain()
        if self._watch is not None:
            self._watch.is_closing = True
        if self._is_busy:
            limit = f"{self.serving.drain_s:.0f}"
            console.line("video", tr("one is being made: the server stops after it, or after {limit} s", limit=limit))
        return Drain(time.monotonic(), self.serving.drain_s)

    def _is_over(self, drain: Drain) -> bool:
        now, visits = time.monotonic(), self.front.visits
        if visits is None:
            return True
        results, answers = visits.results, visits.answers
        if drain.over(now, busy=self._is_busy, results=results, answers=answers, told=visits.told_s):
            return True
        if drain.is_late(now):
            limit = f"{self.serving.drain_s:.0f}"
            console.warn(tr("stopped before the video was done: the {limit} s are over", limit=limit))
            self.handle_exit(signal.SIGTERM, None)
            return True
        return False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.front.visits is not None:
            self.front.visits.end_streams()
        await super().shutdown(sockets)

    async def _work(self, tried: asyncio.Event) -> None:
        """The store first, then whatever stands on it. The port stays up and says what went wrong.

        `tried` is set when the workers go on with it, or have to wait.
        """
        tasks: list[asyncio.Task[None]] = []
        crew = self.front.crew
        try:
            if crew is not None:
                tasks.append(asyncio.create_task(crew.run()))
            opened = await self._opened(tried)
            desk, watch = opened.desk, opened.watch
            self.front.desk, self._watch = desk, watch
            if crew is not None:
                crew.begin(desk.store)
            tried.set()
            tasks += [asyncio.create_task(watch.run()), asyncio.create_task(_guard(desk))]
            await self._show(opened)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # any library may raise anything
            said = error.message if isinstance(error, JingxiangError) else f"{type(error).__name__}: {error}"
            self.front.problem = said
            logs.event(logs.TROUBLE, error=error)
            sys.stderr.write(tr("error: ") + said + "\n")
            await asyncio.Event().wait()
        finally:
            await _end(tasks)
            if self.front.desk is not None:
                self.front.desk.store.close()

    async def _opened(self, tried: asyncio.Event) -> Opened:
        """Wait for a database that is being started, too; /readyz says so."""
        while True:
            try:
                opened = await asyncio.to_thread(_open, self.serving, self.front.crew)
            except JingxiangError as error:
                if not _is_unavailable(error):
                    raise
                if self.front.problem != error.message:
                    console.warn(error.message)
                self.front.problem = error.message
                tried.set()
                await asyncio.sleep(GUARD_S)
            else:
                self.front.problem = ""
                return opened

    async def _show(self, opened: Opened) -> None:
        """Import gradio in a thread (the worker imports torch on another core meanwhile), mount the page, say READY."""
        async with AsyncExitStack() as stack:
            api, page, both = await asyncio.to_thread(_build, opened, self.serving)
            await stack.enter_async_context(api.router.lifespan_context(api))
            await stack.enter_async_context(page.router.lifespan_context(page))
            self.front.visits = Visits(guard.SameSite(both, _hosts(self.serving)))
            said = ""
            while (state := await self.front.state())["status"] != "ready":
                reason = str(state.get("reason", ""))
                if reason and reason != said:
                    sys.stderr.write(tr("error: ") + reason + "\n")
                said = reason
                await asyncio.sleep(READY_POLL_S)
            self.on_ready()
            await asyncio.Event().wait()  # the page's own lifespan ends when we are cancelled


def _is_unavailable(error: JingxiangError) -> bool:
    from app.jobs.base import StoreUnavailable

    return isinstance(error, StoreUnavailable)


def _either(api: Application, page: Application) -> Application:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        is_api = scope["type"] == "http" and (scope["path"].startswith("/api/") or scope["path"] == "/metrics")
        await (api if is_api else page)(scope, receive, send)

    return application


def _hosts(serving: Serving) -> tuple[str, ...]:
    """What browsers may call us; empty: anything. Without a password and on loopback, it is loopback."""
    is_loopback = ports.is_loopback(serving.host)
    return ("localhost", "127.0.0.1", "[::1]", serving.host) if serving.access.is_open and is_loopback else ()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel them; an error that one of them had is said."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            sys.stderr.write(f"{type(result).__name__}: {result}\n")


@dataclass(frozen=True)
class Opened:
    """What stands on the store."""

    desk: Desk
    watch: Watch


def _open(serving: Serving, crew: Crew | None) -> Opened:
    from app.desk import Desk, Quota
    from app.jobs.base import Limits
    from app.jobs.database import Database
    from app.jobs.store import JobStore
    from app.media import Media
    from app.watch import Watch

    media = Media(serving.media)
    store = JobStore(Database(serving.jobs, heals=True))
    limits = Limits(serving.waiting, None if serving.access.is_open else serving.per_user)
    quota = Quota(serving.keep_days * 24 * 3600 or None, round(serving.keep_gb * 1e9) or None)
    recruit = serving.recruit
    desk = Desk(
        store, media, serving.catalog, recruit.model, crew=crew, limits=limits, quota=quota, models=recruit.models,
        names_programs=serving.access.is_open,
    )  # fmt: skip
    return Opened(desk, Watch(store))


async def _guard(desk: Desk) -> None:
    """Look for workers that have died, and now and then for what is too old. Until cancelled."""
    from app.jobs.base import StoreUnavailable
    from app.jobs.store import Watchman
    from app.worker import LEASE_S

    watchman, rounds = Watchman(desk.store, LEASE_S), 0
    while True:
        try:
            await asyncio.to_thread(watchman.look)
            if rounds % SWEEP_ROUNDS == 0:
                await asyncio.to_thread(desk.sweep)
        except StoreUnavailable:  # said by /readyz, and by whoever asks for something
            pass
        except Exception as error:  # the next round may be better
            logs.event(logs.TROUBLE, error=error)
        rounds += 1
        await asyncio.sleep(GUARD_S)


async def _page_modules(outputs: Path, tried: asyncio.Event) -> None:
    """Import gradio. Not before the workers are on their way: what they wait for would take several times as long."""
    await tried.wait()
    # Before: else it makes a folder for all users of the machine that belongs to the first of them.
    os.environ["GRADIO_TEMP_DIR"] = str(outputs / ".gradio")
    with garbage.put_off():
        await asyncio.to_thread(importlib.import_module, "app.page.application")


def _build(opened: Opened, serving: Serving) -> tuple[Any, Any, Application]:
    """API and gradio, whose lifespans are to be seen to, and all of it behind the login."""
    from app import api
    from app.brake import Brake
    from app.login import Gate
    from app.page import application

    access = serving.access
    gradio, page = application.build(opened.desk, access, serving.outputs)
    asked_by_programs = api.build(opened.desk, opened.watch, access, serving.outputs)
    both = _either(asked_by_programs, page)
    return asked_by_programs, gradio, both if access.is_open else Gate(both, access, Brake())


def serve(serving: Serving) -> None:
    """Serve until SIGINT or SIGTERM. Prints `READY http://HOST:PORT` on stdout when /readyz answers 200."""
    listener = ports.bind(serving.host, serving.port)
    shown = f"[{serving.host}]" if ":" in serving.host else serving.host
    url = f"http://{shown}:{listener.getsockname()[1]}"

    def on_ready() -> None:
        sys.stdout.write(f"READY {url}\n")
        sys.stdout.flush()
        if serving.open_browser:  # in a thread: a browser in the terminal only returns when it is left
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    crew = Crew(serving.recruit) if serving.has_workers else None
    front = Front(serving.recruit.model, crew)
    config = uvicorn.Config(
        front, lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_GRACE_S,
        server_header=False,
        # Else uvicorn believes what comes by way of this machine about its origin; a tunnel hands on what it is told.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
    )  # fmt: skip
    # A shell ignores SIGINT in what it starts with `&`; for us it means the same there as Ctrl-C in a terminal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Server(config, front, serving, on_ready).run(sockets=[listener])
