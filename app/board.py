"""All that a page shows of jobs and workers, as it changes.

One look at the store at a time tells all who listen, however many they are: what has not changed since the last one is
not even read, and what has changed is told once to each, in its last state, however slow his connection is.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from app import logs
from app.desk import NO_OUTLOOK, Desk
from app.jobs.base import Ended, Glance, Job, StoreUnavailable, WorkerStatus
from app.survey import Survey

LOOK_S = 0.35  # between two looks: what is new is on every page within half a second
FIRST = 100  # jobs that are told at the start; older ones are asked for
WAIT_S, WAIT_PART = 1.0, 0.05  # a wait is told again when it differs by both
AMOUNT_PART = 0.01  # of memory or disk in all: less is no change


@dataclass(frozen=True)
class Shown:
    """A job with its `Outlook`."""

    job: Job
    position: int
    wait_s: float | None
    left_s: float | None


@dataclass(frozen=True)
class Gone:
    """A job that was deleted."""

    id: str


@dataclass(frozen=True)
class Status:
    """What holds for all. `loading`: the model that a worker is loading, or empty."""

    model: str
    loading: str
    queued: int
    running: int
    waiting_limit: int
    is_draining: bool
    disk_free_bytes: int
    disk_total_bytes: int
    workers: tuple[WorkerStatus, ...]

    def is_like(self, other: Status) -> bool:
        """Whether they differ in nothing but a little memory or disk."""
        amounts = zip(self._amounts(), other._amounts(), strict=False)
        return self._facts() == other._facts() and all(
            abs(one - two) < total * AMOUNT_PART or one == two for (one, total), (two, _) in amounts
        )

    def _facts(self) -> tuple[object, ...]:
        return (
            self.model, self.loading, self.queued, self.running, self.waiting_limit, self.is_draining,
            *((each.name, each.state, each.model, each.models, each.device, each.dtype, each.reason, each.speed,
               each.speed_of, _total(each))
              for each in self.workers),
        )  # fmt: skip

    def _amounts(self) -> Iterable[tuple[int, int]]:
        """Bytes, and of how many."""
        yield self.disk_free_bytes, self.disk_total_bytes
        for worker in self.workers:
            yield worker.space.free_bytes if worker.space else 0, _total(worker)
            yield worker.held_bytes, _total(worker)


@dataclass(frozen=True)
class Trouble:
    """The store does not answer, and is asked again; when it does, all begins anew."""


News = tuple[Shown, ...] | Shown | Gone | Status | Trouble


class Board:
    """Looks at the store as long as somebody listens."""

    def __init__(self, desk: Desk, outputs: Path) -> None:
        self._desk = desk
        self._outputs = outputs
        self._listeners: set[_Listener] = set()
        self._looking: asyncio.Task[None] | None = None
        self._status: Status | None = None  # none before the first look, and while the store does not answer
        self._is_away = False

    async def listen(self, owner: str | None) -> AsyncGenerator[News, None]:
        """The jobs of one owner, or all of them: first those that there are, and the status; then whatever changes."""
        listener = _Listener(owner)
        self._listeners.add(listener)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        elif self._is_away or self._status is not None:
            listener.woken.set()
        try:
            while True:
                await listener.woken.wait()
                listener.woken.clear()
                for news in await self._news(listener):
                    yield news
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._looking is not None:
                self._looking.cancel()
                self._looking, self._status, self._is_away = None, None, False

    async def _news(self, listener: _Listener) -> list[News]:
        if self._status is None:
            return listener.troubled()
        if not listener.is_stale:
            pending, listener.pending = listener.pending, {}
            return list(pending.values())
        # What comes while the jobs are being read is told after them, be it once more.
        listener.is_stale, listener.pending = False, {}
        try:
            shown = await asyncio.to_thread(self._shown, listener.owner)
        except StoreUnavailable:  # it may be back before the next look notices
            asyncio.get_running_loop().call_later(LOOK_S, listener.woken.set)
            return listener.troubled()
        listener.is_told = False
        return [shown, *([self._status] if self._status else [])]

    def _shown(self, owner: str | None) -> tuple[Shown, ...]:
        jobs, outlooks = self._desk.store.jobs(owner=owner, most=FIRST), self._desk.outlooks()
        return tuple(Shown(job, *outlooks.get(job.id, NO_OUTLOOK)) for job in jobs)

    async def _look(self) -> None:
        record = _Record(self._desk, self._outputs)
        while True:
            try:
                news, status = await asyncio.to_thread(record.look)
            except Exception as error:  # any kind of it is told, and the next look may be better
                if not self._is_away and not isinstance(error, StoreUnavailable):
                    logs.event(logs.TROUBLE, error=error)
                record = _Record(self._desk, self._outputs)
                self._status, self._is_away = None, True
                self._renew()
            else:
                self._tell(news, status)
            await asyncio.sleep(LOOK_S)

    def _tell(self, news: Iterable[tuple[str, Shown | Gone]], status: Status) -> None:
        is_new, self._is_away = self._status is None, False
        has_changed = self._status is not status
        self._status = status
        if is_new:
            self._renew()
            return
        for owner, each in news:
            number = each.id if isinstance(each, Gone) else each.job.id
            for listener in self._listeners:
                if listener.owner in (None, owner):
                    listener.pending[number] = each
                    listener.woken.set()
        if has_changed:
            for listener in self._listeners:
                listener.pending[""] = status
                listener.woken.set()

    def _renew(self) -> None:
        """Let all begin anew."""
        for listener in self._listeners:
            listener.is_stale = True
            listener.woken.set()


@dataclass(eq=False)
class _Listener:
    """`pending`: what he is to be told, by the job; `is_stale`: he is to be told all; `is_told`: of the trouble."""

    owner: str | None
    pending: dict[str, News] = field(default_factory=dict)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    is_stale: bool = True
    is_told: bool = False

    def troubled(self) -> list[News]:
        """What to say when the store does not answer: once."""
        self.is_stale, was_told, self.is_told = True, self.is_told, True
        return [] if was_told else [Trouble()]


class _Record:
    """What was told last of each job. Its first look tells nothing: there is nothing yet to be compared with."""

    def __init__(self, desk: Desk, outputs: Path) -> None:
        self._desk = desk
        self._outputs = outputs
        self._mark = ""
        self._glance: Glance | None = None
        self._survey: Survey | None = None
        self._active: dict[str, Shown] = {}
        self._ended: dict[str, Ended] = {}
        self._status: Status | None = None

    def look(self) -> tuple[list[tuple[str, Shown | Gone]], Status]:
        """Owners and what has changed of their jobs; and the status, the same object while it is like it was."""
        mark = self._desk.store.mark()
        news = [] if mark == self._mark else self._read()
        self._mark = mark
        assert self._glance is not None
        status = self._status_at(self._glance)
        if self._status is None or not status.is_like(self._status):
            self._status = status
        return news, self._status

    def _read(self) -> list[tuple[str, Shown | Gone]]:
        store, before, glance = self._desk.store, self._glance, self._desk.store.glance()
        outlooks = self._surveyed(glance).outlooks(glance.active)
        active = {job.id: Shown(job, *outlooks.get(job.id, NO_OUTLOOK)) for job in glance.active}
        ended = self._ended
        if before is None or before.history != glance.history:
            # In PostgreSQL a job may have ended since the glance: then it is told of by the next one.
            ended = {number: each for number, each in store.history().items() if number not in active}
        if before is None:
            self._glance, self._active, self._ended = glance, active, ended
            return []
        waits = [each for number, each in active.items() if _differs(self._active.get(number), each)]
        news: list[tuple[str, Shown | Gone]] = [(each.job.owner, each) for each in waits]
        missing = (self._active.keys() | self._ended.keys()) - active.keys() - ended.keys()
        changed = [number for number, each in ended.items() if self._ended.get(number) != each]
        found = store.these([*changed, *missing]) if changed or missing else {}
        for number in missing - found.keys():
            owner = self._active[number].job.owner if number in self._active else self._ended[number].owner
            news.append((owner, Gone(number)))
        news += [(job.owner, Shown(job, *NO_OUTLOOK)) for job in found.values()]
        ended |= {job.id: Ended(job.owner, job.state, job.ended, job.is_pinned) for job in found.values()}
        told = {each.job.id for each in waits}
        self._active = {number: each if number in told else self._active[number] for number, each in active.items()}
        self._glance, self._ended = glance, ended
        return news

    def _surveyed(self, glance: Glance) -> Survey:
        if self._survey is None or self._glance is None or self._glance.measured != glance.measured:
            self._survey = Survey(self._desk.store, self._desk.catalog, glance.workers)
        else:
            self._survey = self._survey.later(glance.workers)
        return self._survey

    def _status_at(self, glance: Glance) -> Status:
        folder = next(each for each in (self._outputs, *self._outputs.parents) if each.exists())
        disk = shutil.disk_usage(folder)
        queued = sum(job.state == "queued" for job in glance.active)
        return Status(
            model=self._desk.model,
            loading=next((worker.model for worker in glance.workers if worker.state == "loading"), ""),
            queued=queued,
            running=len(glance.active) - queued,
            waiting_limit=self._desk.waiting_limit,
            is_draining=self._desk.is_draining,
            disk_free_bytes=disk.free,
            disk_total_bytes=disk.total,
            workers=glance.workers,
        )


def _differs(told: Shown | None, now: Shown) -> bool:
    if told is None or (told.job, told.position) != (now.job, now.position):
        return True
    if told.wait_s is None or now.wait_s is None:
        return told.wait_s is not now.wait_s
    return abs(told.wait_s - now.wait_s) >= max(WAIT_S, WAIT_PART * told.wait_s)


def _total(worker: WorkerStatus) -> int:
    return worker.space.total_bytes if worker.space else 0
