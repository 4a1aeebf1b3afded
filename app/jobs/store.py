"""Every change that can happen to a job, each in one transaction.

Who may change what: whoever asked may cancel, retry and delete; the worker whose claim it is says what it did, and is
told when the claim is lost. A worker is dead when its beat stands still for a while by the clock of whoever looks: no
two clocks are ever compared, so one that jumps does no harm.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, delete, func, insert, select, update

from app.cards import Holder, Space
from app.generation import Order
from app.jobs import base
from app.jobs.base import (
    ENDS,
    Ended,
    Glance,
    Job,
    Limits,
    LostClaim,
    OtherJob,
    Outcome,
    OwnerLimit,
    QueueFull,
    State,
    Totals,
    UnknownJob,
    WorkerStatus,
    WrongState,
)
from app.jobs.database import Database
from app.jobs.tables import jobs, measurements, previews, totals, workers
from app.texts import tr

Clock = Callable[[], float]
MEASURED = 200  # of one card, model and dtype: the newest are kept


def new_id() -> str:
    """Sorts by time, and can be said on the telephone."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(4)


class JobStore:
    """All methods raise `StoreUnavailable` where the database does not answer."""

    def __init__(self, database: Database, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock

    def close(self) -> None:
        self._database.close()

    # What somebody asks for

    def submit(self, order: Order, *, owner: str = "", number: str = "", limits: Limits = Limits()) -> Job:  # noqa: B008
        """A new job at the end of the queue; the one that is there if it was asked for before under the same id.

        Raises `QueueFull`, `OwnerLimit`, `OtherJob`.
        """
        number = number or new_id()
        with self._database.write(alone=True) as connection:
            there = _find(connection, number)
            if there is not None:
                if there.owner != owner or replace(there.order, seed=order.seed, language=order.language) != order:
                    raise OtherJob(number)
                return there
            _check_room(connection, owner, limits)
            values = {
                "id": number, "owner": owner, "model": order.model, "lot": order.lot, "picture": order.picture,
                "request": json.dumps(asdict(order)), "state": "queued", "place": _last_place(connection) + 1,
                "created": self._clock(),
            }  # fmt: skip
            connection.execute(insert(jobs), values)
            return _get(connection, number, None)

    def job(self, number: str, owner: str | None = None) -> Job:
        """Raises `UnknownJob`, also for one of another owner; None may see all."""
        with self._database.read() as connection:
            return _get(connection, number, owner)

    def jobs(
        self, *, owner: str | None = None, states: Collection[str] = (), most: int | None = None, after: str = ""
    ) -> list[Job]:
        """Those that wait or run in the order of the queue, then those that have ended, the last one first.

        `after`: only what comes after the job with that id. Raises `UnknownJob`.
        """
        waits = case((jobs.c.state.in_(ENDS), 1), else_=0)
        chosen = select(jobs).order_by(waits, case((waits == 0, jobs.c.place)), jobs.c.ended.desc(), jobs.c.id)
        if owner is not None:
            chosen = chosen.where(jobs.c.owner == owner)
        if states:
            chosen = chosen.where(jobs.c.state.in_(states))
        with self._database.read() as connection:
            if after:
                chosen = chosen.where(_comes_after(_get(connection, after, owner)))
            return [_job(row) for row in connection.execute(chosen.limit(most))]

    def these(self, numbers: Collection[str]) -> dict[str, Job]:
        """Those of the jobs that are (still) there."""
        with self._database.read() as connection:
            return {row.id: _job(row) for row in connection.execute(select(jobs).where(jobs.c.id.in_(numbers)))}

    def mark(self) -> str:
        """Another one than before as soon as anything has been written, by whomever; asking costs next to nothing."""
        return self._database.mark()

    def glance(self) -> Glance:
        """All that changes often, at once."""
        active = select(jobs).where(jobs.c.state.in_(("queued", "running"))).order_by(jobs.c.place)
        pinned = func.sum(case((jobs.c.is_pinned, jobs.c.ended), else_=0.0))
        history = select(func.count(), func.sum(jobs.c.ended), pinned).where(jobs.c.state.in_(ENDS))
        with self._database.read() as connection:
            return Glance(
                active=tuple(_job(row) for row in connection.execute(active)),
                history=tuple(connection.execute(history).one()),
                measured=connection.scalar(select(func.max(measurements.c.number))) or 0,
                workers=tuple(_worker(row) for row in connection.execute(select(workers).order_by(workers.c.name))),
            )

    def history(self) -> dict[str, Ended]:
        """All jobs that have ended, in short: there may be thousands."""
        chosen = select(jobs.c.id, jobs.c.owner, jobs.c.state, jobs.c.ended, jobs.c.is_pinned)
        with self._database.read() as connection:
            return {row[0]: Ended(*row[1:]) for row in connection.execute(chosen.where(jobs.c.state.in_(ENDS)))}

    def depth(self) -> dict[State, int]:
        """How many jobs wait and run."""
        counted = (
            select(jobs.c.state, func.count()).where(jobs.c.state.in_(("queued", "running"))).group_by(jobs.c.state)
        )
        with self._database.read() as connection:
            found: dict[State, int] = {"queued": 0, "running": 0}
            found.update({row[0]: row[1] for row in connection.execute(counted)})
            return found

    def totals(self) -> Totals:
        with self._database.read() as connection:
            rows = connection.execute(select(totals)).all()
        return Totals({row.state: row.number for row in rows}, sum(row.seconds for row in rows))

    def find(self, number: str) -> Job | None:
        """Whoever's it is."""
        with self._database.read() as connection:
            return _find(connection, number)

    def cancel(self, number: str, owner: str | None = None) -> Job:
        """A waiting job at once; a running one at its next step. One that has ended stays as it is."""
        with self._database.write() as connection:
            _get(connection, number, owner, lock=True)
            waiting = update(jobs).where(jobs.c.id == number, jobs.c.state == "queued")
            ended = connection.execute(waiting.values(state="cancelled", ended=self._clock()))
            _count(connection, "cancelled", ended.rowcount)
            running = update(jobs).where(jobs.c.id == number, jobs.c.state == "running")
            connection.execute(running.values(is_unwanted=True))
            return _get(connection, number, owner)

    def retry(self, number: str, owner: str | None = None, *, limits: Limits = Limits()) -> Job:  # noqa: B008
        """A job that failed or was cancelled goes to the end of the queue. Raises `WrongState`, `QueueFull`, …"""
        with self._database.write(alone=True) as connection:
            job = _get(connection, number, owner, lock=True)
            if job.state not in ("failed", "cancelled"):
                raise WrongState(number, job.state)
            _check_room(connection, job.owner, limits)
            values = {**_UNCLAIMED, "deaths": 0, "place": _last_place(connection) + 1, "reason": "", "ended": None}
            connection.execute(update(jobs).where(jobs.c.id == number).values(values))
            return _get(connection, number, owner)

    def move(self, number: str, position: int, owner: str | None = None) -> Job:
        """Put a waiting job at that position among those that wait, 0 being the next. Raises `WrongState`."""
        with self._database.write(alone=True) as connection:
            job = _get(connection, number, owner, lock=True)  # first: a worker could give it back meanwhile
            if job.state != "queued":
                raise WrongState(number, job.state)
            rows = connection.execute(
                select(jobs.c.id, jobs.c.place).where(jobs.c.state == "queued").order_by(jobs.c.place).with_for_update()
            ).all()
            order = [row.id for row in rows if row.id != number]
            order.insert(max(0, position), number)
            for place, each in zip([row.place for row in rows], order, strict=True):
                connection.execute(update(jobs).where(jobs.c.id == each).values(place=place))
            return _get(connection, number, owner)

    def pin(self, number: str, owner: str | None = None, *, is_pinned: bool = True) -> Job:
        """A pinned job is kept however old it is."""
        with self._database.write() as connection:
            _get(connection, number, owner)
            connection.execute(update(jobs).where(jobs.c.id == number).values(is_pinned=is_pinned))
            return _get(connection, number, owner)

    def delete(self, number: str, owner: str | None = None, *, unless_pinned: bool = False) -> Job:
        """Forget a job that has ended; its files are the caller's to delete. Raises `WrongState`."""
        with self._database.write() as connection:
            job = _get(connection, number, owner, lock=True)
            if job.state not in ENDS or (unless_pinned and job.is_pinned):
                raise WrongState(number, job.state)
            connection.execute(delete(jobs).where(jobs.c.id == number))
            return job

    def overdue(self, *, age_s: float | None, most_bytes: int | None) -> list[Job]:
        """Which of those that have ended are too old, or must go so that the others' files take no more than that: the
        oldest first. Pinned ones count, but stay.
        """
        ended = [job for job in self.jobs(states=ENDS) if job.ended is not None]
        total, now, found = sum(job.outcome.bytes for job in ended if job.outcome), self._clock(), []
        for job in sorted(ended, key=lambda job: job.ended or 0.0):
            size = job.outcome.bytes if job.outcome else 0
            is_old = age_s is not None and now - (job.ended or 0.0) > age_s
            if not job.is_pinned and (is_old or (size and most_bytes is not None and total > most_bytes)):
                total -= size
                found.append(job)
        return found

    def preview_of(self, number: str, owner: str | None = None) -> bytes | None:
        """A JPEG of how far a job is, while it runs and if there is one. Raises `UnknownJob`."""
        with self._database.read() as connection:
            _get(connection, number, owner)
            image: bytes | None = connection.scalar(select(previews.c.image).where(previews.c.job == number))
            return image

    def uses(self, picture: str, owner: str | None = None) -> bool:
        """Whether any job (of that owner, if one is given) was made from that picture."""
        chosen = select(jobs.c.id).where(jobs.c.picture == picture)
        if owner is not None:
            chosen = chosen.where(jobs.c.owner == owner)
        with self._database.read() as connection:
            return connection.execute(chosen.limit(1)).first() is not None

    # What a worker does

    def claim(self, worker: str, models: Sequence[str], most: Callable[[Job], int] = lambda _: 1) -> list[Job]:
        """The first waiting job of one of these models, with those that can be made along with it: `most(first)`.

        No two workers get the same one.
        """
        with self._database.write() as connection:
            waiting = select(jobs).where(jobs.c.state == "queued").order_by(jobs.c.place)
            chosen = waiting.where(jobs.c.model.in_(models)).limit(1).with_for_update(skip_locked=True)
            first = connection.execute(chosen).first()
            if first is None:
                return []
            rows = [first]
            others = most(_job(first)) - 1
            if others > 0:
                like = waiting.where(jobs.c.lot == first.lot, jobs.c.id != first.id)
                rows += connection.execute(like.limit(others).with_for_update(skip_locked=True)).all()
            numbers = [row.id for row in rows]
            values = {
                "state": "running",
                "worker": worker,
                "claim": jobs.c.claim + 1,
                "step": 0,
                "started": self._clock(),
            }
            connection.execute(update(jobs).where(jobs.c.id.in_(numbers)).values(values))
            claimed = connection.execute(select(jobs).where(jobs.c.id.in_(numbers)).order_by(jobs.c.place))
            return [_job(row) for row in claimed]

    def step(self, job: Job, step: int) -> bool:
        """Say how far a job is; gives whether it is still wanted. Raises `LostClaim`."""
        with self._database.note() as connection:
            told = update(jobs).where(_held(job)).values(step=step).returning(jobs.c.is_unwanted)
            row = connection.execute(told).first()
        if row is None:
            raise LostClaim(job.id)
        return not row.is_unwanted

    def preview(self, job: Job, step: int, image: bytes) -> None:
        """Keep a picture, a JPEG, of a job at that step, until it ends or is not made any more. Raises `LostClaim`."""
        with self._database.note() as connection:
            if connection.execute(update(jobs).where(_held(job)).values(preview=step)).rowcount != 1:
                raise LostClaim(job.id)
            if connection.execute(update(previews).where(previews.c.job == job.id).values(image=image)).rowcount == 0:
                connection.execute(insert(previews).values(job=job.id, image=image))

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Raises `LostClaim`: then what was made is not wanted any more."""
        values = {"outcome": json.dumps(asdict(outcome)), "step": job.steps}
        self._end(job, "done", values, outcome.seconds)

    def fail(self, job: Job, reason: str) -> None:
        """Raises `LostClaim`."""
        self._end(job, "failed", {"reason": reason})

    def stop(self, job: Job) -> None:
        """A running job has been cancelled. Raises `LostClaim`."""
        self._end(job, "cancelled", {})

    def give_back(self, job: Job) -> None:
        """A job that was claimed, but not begun: it keeps its place."""
        with self._database.write() as connection:
            if connection.execute(update(jobs).where(_held(job)).values(_UNCLAIMED)).rowcount:
                _hide(connection, [job.id])

    def _end(self, job: Job, state: State, values: Mapping[str, Any], seconds: float = 0.0) -> None:
        with self._database.write() as connection:
            values = {"state": state, "ended": self._clock(), "preview": 0, "is_unwanted": False, **values}
            ended = update(jobs).where(_held(job)).values(values)
            if connection.execute(ended).rowcount != 1:
                if not _was_said(connection, job, state):
                    raise LostClaim(job.id)
                return  # before: only the answer got lost, as when the database is restarted just then
            _hide(connection, [job.id])
            _count(connection, state, 1, seconds)

    # Who works

    def beat(self, status: WorkerStatus) -> None:
        """A worker lives, and says how it is."""
        text = json.dumps(asdict(status))
        with self._database.note() as connection:
            told = update(workers).where(workers.c.name == status.name).values(beat=workers.c.beat + 1, status=text)
            if connection.execute(told).rowcount == 0:
                connection.execute(insert(workers).values(name=status.name, beat=1, status=text))

    def wish_of(self, worker: str) -> str:
        """The model that somebody wishes that worker to load; empty if there is no wish."""
        with self._database.read() as connection:
            return connection.scalar(select(workers.c.wish).where(workers.c.name == worker)) or ""

    def workers(self) -> list[WorkerStatus]:
        with self._database.read() as connection:
            return [_worker(row) for row in connection.execute(select(workers).order_by(workers.c.name))]

    def wish(self, model: str, worker: str | None = None) -> None:
        """Let workers load that model, again if it is the one they have."""
        chosen = update(workers).values(wish=model)
        with self._database.write() as connection:
            connection.execute(chosen if worker is None else chosen.where(workers.c.name == worker))

    def fulfil(self, worker: str, wish: str) -> None:
        """A worker begins with what it was told to load."""
        with self._database.write() as connection:
            done = update(workers).where(workers.c.name == worker, workers.c.wish == wish).values(wish="")
            connection.execute(done)

    def bury(self, worker: str, reason: str = "", *, beat: int | None = None) -> list[Job]:
        """A worker is no more: its jobs are begun once more, or have failed for that reason if it is the second that
        died over them. Without a reason it was stopped on purpose, and nobody is to blame. Gives those jobs.

        Nothing happens if it has beaten since `beat`.
        """
        with self._database.write() as connection:
            gone = delete(workers).where(workers.c.name == worker)
            if beat is not None:
                gone = gone.where(workers.c.beat == beat)
                if connection.execute(gone).rowcount == 0:
                    return []
            else:
                connection.execute(gone)
            held = (jobs.c.worker == worker) & (jobs.c.state == "running")
            # Locked, in one order: what somebody cancels meanwhile is not overlooked, and nobody waits for each other.
            locked = select(jobs.c.id).where(held).order_by(jobs.c.id).with_for_update()
            numbers = list(connection.scalars(locked))
            _hide(connection, numbers)
            ended = {"ended": self._clock(), "preview": 0, "is_unwanted": False}
            unwanted = connection.execute(
                update(jobs).where(held, jobs.c.is_unwanted).values(state="cancelled", **ended)
            )
            _count(connection, "cancelled", unwanted.rowcount)
            if reason:
                connection.execute(update(jobs).where(held).values(deaths=jobs.c.deaths + 1))
                worn = update(jobs).where(held, jobs.c.deaths >= base.DEATHS)
                failed = connection.execute(worn.values(state="failed", reason=reason, **ended))
                _count(connection, "failed", failed.rowcount)
            connection.execute(update(jobs).where(held).values(_UNCLAIMED))
            return [_job(row) for row in connection.execute(select(jobs).where(jobs.c.id.in_(numbers)))]

    # What was measured

    def measured(self, gpu: str, model: str, dtype: str) -> list[dict[str, Any]]:
        """The newest last."""
        with self._database.read() as connection:
            chosen = (
                select(measurements.c["values"]).where(_measured(gpu, model, dtype)).order_by(measurements.c.number)
            )
            return [json.loads(values) for values in connection.scalars(chosen)]

    def measure(self, gpu: str, model: str, dtype: str, values: Mapping[str, Any]) -> None:
        with self._database.note() as connection:
            of_these = _measured(gpu, model, dtype)
            row = {"gpu": gpu, "model": model, "dtype": dtype, "values": json.dumps(dict(values))}
            connection.execute(insert(measurements), row)
            newest = select(measurements.c.number).where(of_these).order_by(measurements.c.number.desc())
            connection.execute(
                delete(measurements).where(of_these, measurements.c.number.not_in(newest.limit(MEASURED)))
            )


_UNCLAIMED = {"state": "queued", "worker": "", "step": 0, "preview": 0, "is_unwanted": False, "started": None}


def _measured(gpu: str, model: str, dtype: str) -> ColumnElement[bool]:
    return (measurements.c.gpu == gpu) & (measurements.c.model == model) & (measurements.c.dtype == dtype)


def _held(job: Job) -> ColumnElement[bool]:
    """What must be true for a worker to say something of a job that it has claimed."""
    return (
        (jobs.c.id == job.id)
        & (jobs.c.claim == job.claim)
        & (jobs.c.worker == job.worker)
        & (jobs.c.state == "running")
    )


def _hide(connection: Connection, numbers: Collection[str]) -> None:
    """Forget the previews of jobs that are not made any more. Their rows must be locked."""
    connection.execute(delete(previews).where(previews.c.job.in_(numbers)))


def _count(connection: Connection, state: State, number: int, seconds: float = 0.0) -> None:
    if number:
        more = {"number": totals.c.number + number, "seconds": totals.c.seconds + seconds}
        connection.execute(update(totals).where(totals.c.state == state).values(more))


def _was_said(connection: Connection, job: Job, state: State) -> bool:
    """Whether that claim has ended so already."""
    said = select(jobs.c.id).where(
        jobs.c.id == job.id, jobs.c.claim == job.claim, jobs.c.worker == job.worker, jobs.c.state == state
    )
    return connection.execute(said).first() is not None


def _find(connection: Connection, number: str, *, lock: bool = False) -> Job | None:
    chosen = select(jobs).where(jobs.c.id == number)
    row = connection.execute(chosen.with_for_update() if lock else chosen).first()
    return None if row is None else _job(row)


def _get(connection: Connection, number: str, owner: str | None, *, lock: bool = False) -> Job:
    """`lock`: nobody else changes it before the transaction has ended. In SQLite nobody does anyway."""
    job = _find(connection, number, lock=lock)
    if job is None or owner not in (None, job.owner):
        raise UnknownJob(number)
    return job


def _comes_after(job: Job) -> ColumnElement[bool]:
    """What must be true for a job to be listed after that one."""
    has_ended = jobs.c.state.in_(ENDS)
    if job.state in ENDS:
        return has_ended & ((jobs.c.ended < job.ended) | ((jobs.c.ended == job.ended) & (jobs.c.id > job.id)))
    place = select(jobs.c.place).where(jobs.c.id == job.id).scalar_subquery()
    return has_ended | (jobs.c.place > place)


def _check_room(connection: Connection, owner: str, limits: Limits) -> None:
    counted = select(func.count()).select_from(jobs)
    waiting = connection.scalar(counted.where(jobs.c.state == "queued")) or 0
    if waiting >= limits.waiting:
        raise QueueFull(waiting)
    if limits.per_owner is not None:
        own = connection.scalar(counted.where(jobs.c.owner == owner, jobs.c.state.in_(("queued", "running"))))
        if (own or 0) >= limits.per_owner:
            raise OwnerLimit(limits.per_owner)


def _last_place(connection: Connection) -> int:
    return connection.scalar(select(func.max(jobs.c.place))) or 0


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        owner=row.owner,
        order=Order.from_json(json.loads(row.request)),
        state=row.state,
        step=row.step,
        preview=row.preview,
        claim=row.claim,
        deaths=row.deaths,
        worker=row.worker,
        reason=row.reason,
        outcome=Outcome(**json.loads(row.outcome)) if row.outcome else None,
        is_pinned=row.is_pinned,
        created=row.created,
        started=row.started,
        ended=row.ended,
    )


def _worker(row: Row[Any]) -> WorkerStatus:
    known = {each.name for each in fields(WorkerStatus)}  # one of another version may say more
    values = {name: value for name, value in json.loads(row.status).items() if name in known}
    space = values.get("space")
    if space is not None:
        values["space"] = Space(**{**space, "holders": tuple(Holder(**each) for each in space["holders"])})
    return WorkerStatus(**{**values, "models": tuple(values["models"]), "beat": row.beat})


class Watchman:
    """Buries workers whose beat stands still for `lease_s`, as seen from here."""

    def __init__(self, store: JobStore, lease_s: float, clock: Clock = time.monotonic) -> None:
        self._store = store
        self._lease_s = lease_s
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = -math.inf

    def look(self) -> list[Job]:
        """The jobs of the workers that were found dead now."""
        now, seen, freed = self._clock(), {}, []
        workers = self._store.workers()
        if now - self._looked > self._lease_s / 2:  # we could not look for a while: nor could they beat
            self._seen = {}
        self._looked = now
        for worker in workers:
            beat, since = self._seen.get(worker.name, (-1, now))
            if beat != worker.beat:
                since = now
            if now - since > self._lease_s:
                reason = tr("the worker {name} stopped answering in the middle of it", name=worker.name)
                freed += self._store.bury(worker.name, reason, beat=worker.beat)
            else:
                seen[worker.name] = (worker.beat, since)
        self._seen = seen
        return freed
