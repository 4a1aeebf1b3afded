"""Where the page and the API hand in what somebody wants, and ask how it goes."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import generation, picture
from app.crew import Crew
from app.jobs.base import ENDS, Job, Limits, QueueFull, UnknownJob, WrongState
from app.jobs.store import JobStore
from app.media import PICTURES, VIDEOS, Media, MediaFailed, digest_of, number_of, picture_key, sidecar_key
from app.memory import Fit, Refusal
from app.survey import Outlook, Survey
from app.texts import tr
from app.tokens import Tokens
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.models import FULL, Catalog, ModelSpec, Preset

UNPACKED = 2  # pictures at a time: a large one takes several hundred megabytes
THUMBNAILS = 256  # kept: those of the page have 20 kB
JUMP_S = 3600.0  # of a clock that cannot be believed any more
GRACE_S = 120.0  # between a picture and its job
NO_OUTLOOK = Outlook()  # of a job that has ended


class Draining(JingxiangError):
    """The server is about to stop."""

    def __init__(self) -> None:
        super().__init__(tr("the server is about to stop and takes no new videos; try again in a minute"))


class Kept(JingxiangError):
    """The server is about to stop, and a job waits."""

    def __init__(self) -> None:
        super().__init__(tr("the server is about to stop; your video keeps its place in the queue"))


class ModelMissing(UsageError):
    """No worker has that model."""


class TooLarge(UsageError):
    """It does not fit into memory as it is now."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.message)


@dataclass(frozen=True)
class Quota:
    """What is kept of what has been made: not longer, and not more. None: without end."""

    age_s: float | None = 30 * 24 * 3600.0
    bytes: int | None = 20 * 10**9


@dataclass(frozen=True)
class Wanted:
    """What somebody hands in. `changes` are settings that differ from the preset's; `negative`: what should not be in
    the video; `picture`: the hash of one that is here already, instead of `image`.
    """

    image: bytes
    name: str
    prompt: str = ""
    model: str = ""
    preset: str = "standard"
    seed: int | None = None
    changes: Mapping[str, Any] | None = None
    negative: str = ""
    picture: str = ""


@dataclass(frozen=True)
class Choice:
    """Settings that are offered, whether they fit now (None: nobody knows), and how long they take, if it is known."""

    title: str
    preset: Preset
    fit: Fit | Refusal | None
    seconds: float | None


class Desk:
    """`model` is what is made with unless somebody says otherwise; `models` the folder where models lie, if they lie on
    this machine.
    """

    def __init__(
        self,
        store: JobStore,
        media: Media,
        catalog: Catalog,
        model: str,
        *,
        crew: Crew | None,
        limits: Limits,
        quota: Quota,
        models: Path | None = None,
        names_programs: bool = True,
    ) -> None:
        self.store = store
        self.media = media
        self.catalog = catalog
        self.model = model
        self.is_draining = False
        self._crew = crew
        self._unpacking = threading.BoundedSemaphore(UNPACKED)
        self._began = time.time() - time.monotonic()
        self._limits = limits
        self._quota = quota
        self._models = models
        self._names_programs = names_programs

    @property
    def waiting_limit(self) -> int:
        """How many jobs may wait."""
        return self._limits.waiting

    # Handing in

    def submit(self, wanted: Wanted, *, owner: str = "", number: str = "") -> tuple[Job, bool]:
        """The job, and whether it is new: under the same id, the same is asked for only once.

        Raises `UsageError` for what cannot be made, `QueueFull`, `OwnerLimit`, `OtherJob`, `Draining`, …
        """
        if self.is_draining:
            raise Draining
        spec = self.catalog.model(wanted.model or self.model)
        self._check_there(spec)
        is_new = not number or self.store.find(number) is None
        if is_new and self.store.depth()["queued"] >= self._limits.waiting:
            raise self._full()  # before anything is unpacked
        digest, png = self._shown(wanted)
        order = generation.order(
            spec,
            picture=digest,
            prompt=wanted.prompt,
            preset=wanted.preset,
            seed=wanted.seed,
            changes=wanted.changes,
            negative=wanted.negative,
        )
        fit = self.fit(spec, order.preset) if is_new else None
        if isinstance(fit, Refusal):
            raise TooLarge(fit)
        self.media.put(picture_key(digest), png)  # also if it is there: so it is not deleted for its age
        try:
            job = self.store.submit(order, owner=owner, number=number, limits=self._limits)
        except QueueFull as error:
            raise self._full() from error
        self._wake()
        return job, is_new

    def again(self, number: str, owner: str | None, *, preset: str, by: str) -> Job:
        """The same picture, prompt and seed with another preset, for the user `by`: what a preview was made for."""
        order = self.store.job(number, owner).order
        wanted = Wanted(b"", "", order.prompt, order.model, preset, order.seed, negative=order.negative,
                        picture=order.picture)  # fmt: skip
        return self.submit(wanted, owner=by)[0]

    def retry(self, number: str, owner: str | None) -> Job:
        if self.is_draining:
            raise Draining
        try:
            job = self.store.retry(number, owner, limits=self._limits)
        except QueueFull as error:
            raise self._full() from error
        self._wake()
        return job

    def delete(self, number: str, owner: str | None) -> Job:
        """What waits or runs is cancelled; what has ended is forgotten, with its files."""
        if self.store.job(number, owner).state not in ENDS:
            return self.store.cancel(number, owner)
        job = self.store.delete(number, owner)
        self._forget(job)
        return job

    def use(self, model: str) -> None:
        """Let all workers load a model, again if they have it, and make with it unless somebody says otherwise."""
        spec = self.catalog.model(model)
        self._check_there(spec)
        self.model = model
        for worker in self.store.workers():
            if model in worker.models:
                self.store.wish(model, worker.name)
        self._wake()

    # Asking

    def survey(self) -> Survey:
        """What is known now, to ask for several things at once."""
        return Survey(self.store, self.catalog, names_programs=self._names_programs)

    def fit(self, spec: ModelSpec, preset: Preset) -> Fit | Refusal | None:
        """Whether a job fits into the memory of a worker that has the model, as it is now; None if nobody knows."""
        return self.survey().fit(spec, preset)

    def sizes(self, spec: ModelSpec, preset: Preset, survey: Survey | None = None) -> list[Choice]:
        """What of "256p" to "1024p" the model can make, with the other settings of the preset. `survey`: else as it is
        now.
        """
        return _choices(spec, self.catalog.sizes(spec, preset), survey or self.survey())

    def presets(self, spec: ModelSpec, survey: Survey | None = None) -> list[Choice]:
        """The model's presets; their titles are their names."""
        return _choices(spec, spec.presets, survey or self.survey())

    def tokens(self, spec: ModelSpec) -> Tokens | None:
        """What counts how much of a prompt the model reads; None if it reads none, or does not lie on this machine."""
        return Tokens.of(self._models / spec.name) if self._models and spec.takes_prompt else None

    def recommended(self, spec: ModelSpec) -> str:
        """The preset that is meant for cards like the largest one that works here."""
        return self.survey().recommended(spec)

    def seconds(self, spec: ModelSpec, preset: Preset, rung: str = FULL) -> float | None:
        """How long a video takes on the first worker that has made one of about that size; None if none has."""
        return self.survey().seconds(spec, preset, rung)

    @functools.lru_cache(maxsize=THUMBNAILS)  # noqa: B019 (there is one desk)
    def thumbnail(self, digest: str, side: int) -> bytes:
        """A source picture as a JPEG, at most so many pixels wide and high."""
        with self._unpacking:
            return picture.small(self.media.get(picture_key(digest)), side)

    def outlook(self, job: Job) -> Outlook:
        """How it goes on with a job that waits or runs, if that can be told."""
        return NO_OUTLOOK if job.state in ENDS else self.outlooks().get(job.id, NO_OUTLOOK)

    def outlooks(self) -> dict[str, Outlook]:
        """That of all jobs that wait or run, by their ids."""
        active = self.store.jobs(states=("running", "queued"))
        return self.survey().outlooks(active) if active else {}

    # Keeping the disk free

    def sweep(self) -> int:
        """Forget what is too old or too much, and pictures that no job is made from any more. Gives how many jobs."""
        has_jumped = abs(time.time() - time.monotonic() - self._began) > JUMP_S
        age_s = None if has_jumped else self._quota.age_s
        overdue = self.store.overdue(age_s=age_s, most_bytes=self._quota.bytes)
        for job in overdue:
            with suppress(UnknownJob, WrongState):  # somebody else was faster, or wants it
                self._forget(self.store.delete(job.id, unless_pinned=True))
        for key in self.media.keys(PICTURES):
            self._forget_picture(key)
        for key in self.media.keys(VIDEOS):
            self._forget_leftover(key)
        return len(overdue)

    def _forget_leftover(self, key: str) -> None:
        """What a worker has left that died before it could say so. What belongs to no job that is known is kept."""
        job = self.store.find(number_of(key))
        if job is None or job.state not in ENDS:
            return
        kept = job.outcome.video if job.outcome else ""
        with suppress(MediaFailed):
            if key not in (kept, sidecar_key(kept)) and self.media.age_s(key) > GRACE_S:
                self.media.delete(key)

    def _forget(self, job: Job) -> None:
        if job.outcome:
            self.media.delete(job.outcome.video)
            self.media.delete(sidecar_key(job.outcome.video))
        self._forget_picture(picture_key(job.order.picture))

    def _forget_picture(self, key: str) -> None:
        """Not one that was put there just now: its job may not be in the store yet."""
        with suppress(MediaFailed):  # gone already
            if not self.store.uses(digest_of(key)) and self.media.age_s(key) > GRACE_S:
                self.media.delete(key)

    def _shown(self, wanted: Wanted) -> tuple[str, bytes]:
        """The hash of a picture's file, and the PNG of it that is kept."""
        if wanted.picture:
            return wanted.picture, self.media.get(picture_key(wanted.picture))
        with self._unpacking:
            shown = picture.normalized(wanted.image, wanted.name)
        return shown.sha256, shown.png

    def _check_there(self, spec: ModelSpec) -> None:
        """Before the first worker has said what it has, nobody knows."""
        workers = self.store.workers()
        there = {name for worker in workers for name in worker.models}
        if workers and spec.name not in there:
            text = tr("{title} is not on this machine; there is {known}", title=spec.title,
                      known=", ".join(sorted(there)) or tr("nothing"))  # fmt: skip
            raise ModelMissing(text, (f"python3 tasks.py fetch {spec.name}",))

    def _wake(self) -> None:
        if self._crew is not None:
            self._crew.wake()

    def _full(self) -> QueueFull:
        """The queue is full: with when a place is free, which is when one of those that run is done."""
        waiting, survey = self.store.jobs(states=("queued",)), self.survey()
        running = [survey.left_s(job) for job in self.store.jobs(states=("running",))]
        return QueueFull(len(waiting), min((left for left in running if left is not None), default=None))


def _choices(spec: ModelSpec, presets: Mapping[str, Preset], survey: Survey) -> list[Choice]:
    return [Choice(title, preset, *survey.estimate(spec, preset)) for title, preset in presets.items()]
