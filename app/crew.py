"""The workers of this machine: one process for each card, started, watched, and started again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app import cards as cards_
from app import logs
from app.jobs.base import StoreUnavailable
from app.texts import FOLDER, tr
from jingxiang import console, gpu

if TYPE_CHECKING:
    from app.jobs.store import JobStore

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # before a worker that died is started again: longer each time in a row
LIVED_S = 120.0  # one that lived so long did not die of the same thing again
STOP_S = 1.0  # in which a worker may end by itself: libraries in it may hold up the thread that it does that in
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Recruit:
    """How the workers of this machine are started."""

    model: str
    models: Path
    jobs: str
    media: str
    options: Sequence[str] = ()


class Crew:
    """`reason` is why the last worker that died did so."""

    def __init__(self, recruit: Recruit) -> None:
        self.recruit = recruit
        self.reason = ""
        self.store: JobStore | None = None
        self.names: list[str] = []
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._draining = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Keep all alive until cancelled."""
        self._loop = asyncio.get_running_loop()
        found = await asyncio.to_thread(cards)  # the driver may take a second to answer
        self.names = [f"{own_name()}-{number}" for number in range(len(found))]
        try:
            await asyncio.gather(*map(self._keep, self.names, found))
        finally:
            await self._stop()

    def wake(self) -> None:
        """A job may be waiting. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell, "wake")

    def begin(self, store: JobStore) -> None:
        """It is there: workers go on, that have only imported what takes long."""
        self.store = store
        self._tell("begin")

    def drain(self) -> None:
        """They end after what they are doing."""
        self._draining.set()
        self._tell("drain")

    @property
    def is_at_work(self) -> bool:
        """Whether any of them lives. One that drains ends when its video is done."""
        return any(process.returncode is None for process in self._processes.values())

    def _tell(self, word: str) -> None:
        for process in self._processes.values():
            if process.returncode is None and process.stdin is not None:
                with contextlib.suppress(ConnectionError):
                    process.stdin.write(f"{word}\n".encode())

    async def _keep(self, name: str, card: str | None) -> None:
        loop, deaths = asyncio.get_running_loop(), 0
        while not self._draining.is_set():
            started = loop.time()
            try:
                process = await self._start(name, card)
                if self.store is not None:  # told the others while this one was being started
                    self._tell("begin")
                if self._draining.is_set():
                    self._tell("drain")
                self.reason = death(await process.wait())
            except OSError as error:  # no memory, or no numbers left for it
                self.reason = f"{type(error).__name__}: {error}"
            if self._draining.is_set():  # told so meanwhile: this end was asked for
                break
            deaths = 1 if loop.time() - started > LIVED_S else deaths + 1
            console.warn(self.reason)
            logs.event(logs.TROUBLE, worker=name, reason=self.reason)
            await self._bury(name, self.reason)
            await asyncio.sleep(PAUSES_S[min(deaths, len(PAUSES_S)) - 1])

    async def _start(self, name: str, card: str | None) -> asyncio.subprocess.Process:
        recruit = self.recruit
        argv = [
            sys.executable, "-m", "app", "worker", "--child", "--name", name, "--model", recruit.model, "--models",
            str(recruit.models), *recruit.options,
        ]  # fmt: skip
        # Not as arguments: addresses of databases and buckets hold passwords, and arguments are there for all to see.
        env = {**os.environ, "JINGXIANG_JOBS": recruit.jobs, "JINGXIANG_MEDIA": recruit.media}
        if card is not None:
            env[VISIBLE] = card
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=2, cwd=FOLDER.parent, env=env
        )
        self._processes[name] = process
        return process

    async def _bury(self, name: str, reason: str = "") -> None:
        """Without waiting until its beat has been still for long enough."""
        if self.store is not None:
            with contextlib.suppress(StoreUnavailable):
                await asyncio.to_thread(self.store.bury, name, reason)

    async def _stop(self) -> None:
        """End them at once: they have nothing to tidy up. What they were doing is begun again by others, or later."""
        await asyncio.gather(*map(_ended, self._processes.values()))
        for name in self._processes:
            await self._bury(name)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """A worker ends when its stdin does, and then does not look as if it had died of what it was loading."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def own_name() -> str:
    """Another one in each process that ever is, also in containers, where host and number are the same each time."""
    return f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(3)}"


def cards() -> tuple[str | None, ...]:
    """What CUDA_VISIBLE_DEVICES is for each worker of this machine, one for each card that may be used; None for the
    only one of a machine without cards, or with one, which sees what there is.
    """
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        named = [name.strip() for name in visible.split(",")]
        return tuple(named) if len(named) > 1 else (None,)
    if cards_.is_cpu_build():
        return (None,)
    count = len(gpu.detect().cards)
    return tuple(str(number) for number in range(count)) if count > 1 else (None,)


def death(code: int) -> str:
    """Why a worker ended, as far as its exit code tells."""
    if code == -signal.SIGKILL:
        return tr("the worker was killed; most often the machine ran out of memory")
    return tr("the worker ended with exit code {code}; its last words are in the log", code=code)
