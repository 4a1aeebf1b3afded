"""The app's side of the worker: starts it, hands it one job at a time, starts it again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from app.generation import Order
from app.texts import FOLDER, tr
from jingxiang.errors import JingxiangError
from jingxiang.models import ModelSpec

RESTART_PAUSE_S = 1.0
LINE_BYTES = 1 << 20


class JobFailed(JingxiangError):
    """A video that could not be made."""


class Draining(JobFailed):
    """The app is about to stop."""

    def __init__(self, language: str) -> None:
        super().__init__(
            tr("the server is about to stop and takes no new videos; try again in a minute", language=language)
        )


class Engine:
    """One model in one worker process. While it is `draining` it takes no new jobs."""

    def __init__(self, spec: ModelSpec, models: Path) -> None:
        self.spec = spec
        self.models = models
        self.ready = False
        self.reason = ""  # why the model cannot be used
        self.draining = False
        self._turn = asyncio.Lock()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._numbers = itertools.count(1)
        self._unfinished: set[int] = set()  # what the worker has been told to do, also if nobody waits for it any more
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Keep a worker alive until cancelled. One that cannot load its model is not started again."""
        try:
            while not self.reason:
                await self._start()
                await self._read()
                await asyncio.sleep(RESTART_PAUSE_S)
        finally:
            await self._stop()

    async def settled(self) -> None:
        """Wait until the model is loaded or has failed."""
        while not (self.ready or self.reason):
            self._changed.clear()
            await self._changed.wait()

    @property
    def busy(self) -> bool:
        """Whether a video is being made, or will be as soon as the model is loaded."""
        return self._turn.locked() or bool(self._unfinished)

    async def make(
        self, order: Order, on_unread: Callable[[str], None] | None = None
    ) -> AsyncGenerator[tuple[int, int], None]:
        """Make one video: yields (steps done, steps). Jobs take turns. Raises `JobFailed`.

        `on_unread` is told the end of a prompt that was too long for the model.
        """
        self._check_open(order)
        async with self._turn:
            self._check_open(order)  # it may have waited long
            await self.settled()
            if self.reason or self._process is None or self._process.stdin is None:
                raise JobFailed(tr("the model is not loaded: {reason}", language=order.language, reason=self.reason))
            number = next(self._numbers)
            self._unfinished.add(number)
            self._events = asyncio.Queue()  # without what came after an earlier job's end
            self._process.stdin.write((json.dumps({"id": number, **order.to_json()}) + "\n").encode())
            with contextlib.suppress(ConnectionError):  # the worker died: its end arrives as an event
                await self._process.stdin.drain()
            async for event in self._of(number):
                if event["event"] == "step":
                    yield event["done"], event["of"]
                elif on_unread and event["unread"]:
                    on_unread(event["unread"])

    def _check_open(self, order: Order) -> None:
        if self.draining:
            raise Draining(order.language)

    async def _of(self, number: int) -> AsyncGenerator[dict[str, Any], None]:
        """The events of one job to its end; those of a job that nobody waits for any more are passed over."""
        while True:
            event = await self._events.get()
            if event["event"] == "ended":
                raise JobFailed(event["message"])
            if event.get("id") != number:
                continue
            if event["event"] == "error":
                raise JobFailed(event["message"])
            yield event
            if event["event"] == "done":
                return

    async def _start(self) -> None:
        argv = [sys.executable, "-m", "app", "worker", "--model", self.spec.name, "--models", str(self.models)]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, limit=LINE_BYTES, cwd=FOLDER.parent
        )

    async def _read(self) -> None:
        """Events until the worker ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                self.ready = True
                self._changed.set()
            elif event["event"] == "failed":
                self.reason = event["message"]
                self._changed.set()
            else:
                if event["event"] in ("done", "error"):
                    self._unfinished.discard(event["id"])
                self._events.put_nowait(event)
        code = await self._process.wait()
        self._unfinished.clear()
        was_ready, self.ready = self.ready, False
        if not was_ready and not self.reason:  # it would only die again
            self.reason = _death(code)
            self._changed.set()
        self._events.put_nowait({"event": "ended", "message": _death(code)})

    async def _stop(self) -> None:
        """End the worker at once: it has nothing to tidy up, and does not listen to SIGTERM (see `worker`)."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
            await process.wait()


def _death(code: int) -> str:
    """Why a worker ended, as far as its exit code tells."""
    if code == -signal.SIGKILL:
        return tr("the worker was killed; most often the machine ran out of memory")
    return tr("the worker ended with exit code {code}; its last words are in the log", code=code)
