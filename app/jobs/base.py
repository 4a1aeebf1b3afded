"""What a job is, and what can be wrong with asking for one. Nothing here touches a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from app.cards import Space
from app.generation import Order
from app.texts import tr
from jingxiang.errors import JingxiangError

DEATHS = 2  # a job whose worker dies is begun once more; one that takes two with it has failed


State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDS: tuple[State, ...] = ("done", "failed", "cancelled")
# What a worker does. `idle`: nothing is loaded, but it can be; `failed`: it could not load its model.
WorkerState = Literal["loading", "ready", "busy", "idle", "failed"]
# How a worker's model runs: `eager` without compiled code, `compiling` also, while that is being made; empty: compiled
# code is not an issue, as on a CPU.
Speed = Literal["", "eager", "compiling", "compiled"]


@dataclass(frozen=True)
class Outcome:
    """What a job that is done has given. `video`: its key in the media; `unread`: the end of the prompt that was too
    long for the model; `rung`: how memory was saved (see `app.adapters.ladder`), `retried_from`: another one, on which
    it had run out; `peak_bytes`: what was taken at most, 0 if not known; `batch`: how many videos were made at once.
    """

    video: str
    bytes: int
    seconds: float
    unread: str = ""
    rung: str = ""
    retried_from: str = ""
    peak_bytes: int = 0
    batch: int = 1


@dataclass(frozen=True)
class Job:
    """One video that somebody asked for. Times are seconds since 1970, by the clock of whoever wrote them: to be shown,
    not to be reckoned with.

    `claim` counts how often it was begun: what a worker says of a job holds only with the number of its own claim.
    `deaths` counts the workers that died over it. `preview`: the step that a picture of it is there of, 0 if none is.
    """

    id: str
    owner: str
    order: Order
    state: State
    step: int
    preview: int
    claim: int
    deaths: int
    worker: str
    reason: str
    outcome: Outcome | None
    is_pinned: bool
    created: float
    started: float | None
    ended: float | None

    @property
    def steps(self) -> int:
        return self.order.preset.steps


@dataclass(frozen=True)
class WorkerStatus:
    """A process that makes videos, as it last described itself.

    `models`: what lies in its folder and it can load; `model`: what is loaded, in `dtype` and on `gpu` (`cpu` if there
    is none; both empty without a model); `space`: memory of its device, None if nobody says; `held_bytes`: what of it
    the worker itself has; `speed` holds for videos of the size `speed_of`, such as `512x512x16`; `beat` grows as long
    as it lives.
    """

    name: str
    state: WorkerState
    model: str = ""
    models: tuple[str, ...] = ()
    gpu: str = ""
    dtype: str = ""
    space: Space | None = None
    held_bytes: int = 0
    pid: int = 0
    reason: str = ""
    beat: int = 0
    speed: Speed = ""
    speed_of: str = ""

    @property
    def device(self) -> str:
        """What to say of where it works."""
        return self.gpu or ("GPU" if self.space is not None and self.space.is_gpu else "cpu")

    @property
    def takes_jobs(self) -> bool:
        return self.state in ("ready", "busy", "idle")


class Ended(NamedTuple):
    """What can still change of a job that has ended."""

    owner: str
    state: State
    ended: float | None
    is_pinned: bool


@dataclass(frozen=True)
class Glance:
    """The store at one moment. `active`: the jobs that wait or run, in the order of the queue; `history` is another one
    when anything about the others is, and `measured` when there are new measurements.
    """

    active: tuple[Job, ...]
    history: tuple[float | None, ...]
    measured: int
    workers: tuple[WorkerStatus, ...]


@dataclass(frozen=True)
class Totals:
    """How many jobs have ended in each way since the store was made, and how many seconds those took that are done."""

    ended: Mapping[State, int]
    seconds: float


@dataclass(frozen=True)
class Limits:
    """How much may wait: jobs in all, and jobs (those that run, too) of one owner."""

    waiting: int = 5
    per_owner: int | None = None


class QueueFull(JingxiangError):
    """Enough jobs are waiting already. `wait_s`: when it is worth trying again; None: nobody knows."""

    def __init__(self, waiting: int, wait_s: float | None = None) -> None:
        self.waiting = waiting
        self.wait_s = wait_s
        text = tr("the queue is full: {waiting} are waiting", waiting=waiting)
        if wait_s is not None:
            text += tr("; a place is free in about {seconds:.0f} s", seconds=wait_s)
        super().__init__(text)


class OwnerLimit(JingxiangError):
    """This owner has as many jobs as one may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(tr("you have {limit} videos under way: wait for one, or cancel one", limit=limit))


class UnknownJob(JingxiangError):
    """No such job, or it is somebody else's."""

    def __init__(self, number: str) -> None:
        super().__init__(tr("there is no job {id}", id=number))


class OtherJob(JingxiangError):
    """A job of that id is there, and it asks for something else."""

    def __init__(self, number: str) -> None:
        super().__init__(tr("job {id} is already there and asks for something else", id=number))


class WrongState(JingxiangError):
    """What was asked cannot be done with a job in that state."""

    def __init__(self, number: str, state: State) -> None:
        words = {
            "queued": tr("waiting"),
            "running": tr("running"),
            "done": tr("done"),
            "failed": tr("failed"),
            "cancelled": tr("cancelled"),
        }
        super().__init__(tr("job {id} is {state}: that cannot be done now", id=number, state=words[state]))


class LostClaim(Exception):
    """The job is not ours any more: it was given to another worker, or it is gone."""


class StoreUnavailable(JingxiangError):
    """The store does not answer, or is not one of ours."""
