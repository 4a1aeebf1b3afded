"""The worker: a process of its own that holds a model and makes videos; a crash in it does not take the page down.

It claims jobs from the store and writes to the store how they go, whether the app on this machine started it or it runs
alone on another one. As long as it lives it beats; see `jobs.store` for what happens when it does not.

Started by the app it is told things by lines on stdin: `wake` (a job may be waiting), `drain` (end after what is being
done). It ends at once when its stdin does: it never outlives the app.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import provenance, video
from app.generation import Order
from app.jobs.base import Job, LostClaim, Outcome, StoreUnavailable, WorkerState, WorkerStatus
from app.jobs.database import Database
from app.jobs.store import JobStore, Watchman
from app.media import Media, picture_key, sidecar_key, video_key
from app.texts import speaking, tr
from jingxiang import console
from jingxiang.errors import JingxiangError
from jingxiang.models import Catalog

if TYPE_CHECKING:
    from app.adapters.base import Made, Model

BEAT_S = 2.0
LEASE_S = 10.0  # a worker that has not beaten for so long is dead
POLL_S = 0.5  # how often the store is asked when nobody wakes us
PAUSE_S = 1.0  # before the store is asked again after it did not answer
PERSIST_S = 600.0  # how long a finished video is kept for a store that does not answer


@dataclass(frozen=True)
class Marks:
    """What a video says of itself, see `app.video.write`."""

    metadata: bool = True
    label: bool = False
    producer: str = ""


@dataclass(frozen=True)
class Duty:
    """What a worker is to do. `model` is loaded at the start (empty: with the first job); `idle_s`: unload after so
    long without a job (0: never); `most`: videos made at once.
    """

    name: str
    model: str
    models: Path
    idle_s: float = 0.0
    most: int = 4
    marks: Marks = Marks()


class Stopped(Exception):
    """None of the jobs that are being made is wanted any more."""


class Control:
    """What a worker is told while it works."""

    def __init__(self) -> None:
        self.is_draining = False
        self._bell = threading.Event()

    def wake(self) -> None:
        self._bell.set()

    def drain(self) -> None:
        self.is_draining = True
        self.wake()

    def wait(self, seconds: float) -> None:
        self._bell.wait(seconds)
        self._bell.clear()

    def follow_stdin(self) -> None:
        """Be told by the app that started us. What reaches the whole group of processes reaches the app, too, and it
        decides what that means for us.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=self._read, daemon=True, name="stdin").start()

    def follow_signals(self) -> None:
        """The first SIGTERM: end after what is being done. A second one, and SIGINT: at once."""

        def asked(number: int, frame: object) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self.drain()

        signal.signal(signal.SIGTERM, asked)

    def _read(self) -> None:
        doings: dict[str, Callable[[], None]] = {"wake": self.wake, "drain": self.drain}
        for line in sys.stdin:
            doings[line.strip()]()
        os._exit(0)


@dataclass
class _Part:
    """One job of those that are made together."""

    job: Job
    is_lost: bool = False
    is_over: bool = False


@dataclass
class Worker:
    """Claims jobs and makes them, one lot after another."""

    store: JobStore
    media: Media
    catalog: Catalog
    duty: Duty
    control: Control = field(default_factory=Control)

    def __post_init__(self) -> None:
        self._model: Model | None = None
        self._status = WorkerStatus(self.duty.name, "idle", "", self._there(), _device(), *_memory(), "")
        self._lock = threading.Lock()

    def run(self) -> None:
        """Until it is told to drain."""
        ended = threading.Event()
        beating = threading.Thread(target=self._beat_until, args=(ended,), daemon=True, name="beat")
        beating.start()
        try:
            if self.duty.model:
                self._load(self.duty.model)
            idle_since = time.monotonic()
            while not self.control.is_draining:
                if self._try_once():
                    idle_since = time.monotonic()
                elif self._model is not None and 0 < self.duty.idle_s < time.monotonic() - idle_since:
                    self._unload()
                    self._report("idle")
        finally:
            ended.set()
            beating.join()
            with suppress(StoreUnavailable):
                self.store.bury(self.duty.name)

    def _try_once(self) -> bool:
        """Load what was wished for, and make what waits; else wait for a moment. Whether there was a job."""
        try:
            self._heed()
            parts = [_Part(job) for job in self.store.claim(self.duty.name, self._status.models, self._how_many)]
        except StoreUnavailable as error:
            console.warn(error.message)
            self.control.wait(PAUSE_S)
            return False
        if not parts:
            self.control.wait(POLL_S)
            return False
        self._do(parts)
        return True

    def _how_many(self, first: Job) -> int:
        return self.duty.most

    # The model

    def _there(self) -> tuple[str, ...]:
        """The models in our folder."""
        names = (name for name in self.catalog.models if (self.duty.models / name / "model_index.json").exists())
        return tuple(names)

    def _heed(self) -> None:
        """Load what somebody wishes to have loaded."""
        wish = self.store.wish_of(self.duty.name)
        if wish:
            self.store.fulfil(self.duty.name, wish)
            self._load(wish)

    def _load(self, name: str) -> bool:
        """Load a model, the old one being gone first. What goes wrong is said, and is not our end."""
        from app import adapters

        self._unload()
        self._report("loading", model=name)
        start = time.monotonic()
        try:
            self._model = adapters.load(self.catalog.model(name), self.duty.models / name)
        except Exception as error:  # any library may raise anything for a model that is not whole
            message = error.message if isinstance(error, JingxiangError) else f"{type(error).__name__}: {error}"
            if not isinstance(error, JingxiangError):
                traceback.print_exc()
            self._report("failed", model="", reason=message)
            return False
        console.line("model", tr("{title} loaded in {seconds:.1f} s", title=self.catalog.model(name).title,
                                 seconds=time.monotonic() - start))  # fmt: skip
        self._report("ready", model=name)
        return True

    def _unload(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None
            self._status = replace(self._status, model="")

    # Jobs

    def _do(self, parts: list[_Part]) -> None:
        """Make videos for jobs of one lot. Whatever goes wrong is an end of the jobs, not of the worker."""
        wanted = parts[0].job.order
        try:
            with speaking(wanted.language):
                if (self._model is None or self._status.model != wanted.model) and not self._load(wanted.model):
                    raise JingxiangError(tr("the model is not loaded: {reason}", reason=self._status.reason))
                self._report("busy")
                self._make(parts)
        except Stopped:
            pass
        except JingxiangError as error:
            self._fail(parts, error.message)
        except Exception as error:  # any library may raise anything; who asked must see it, and the next job must run
            traceback.print_exc()
            self._fail(parts, f"{type(error).__name__}: {error}")
        finally:
            if self._model is not None:
                self._report("ready")

    def _make(self, parts: list[_Part]) -> None:
        from app import picture
        from app.adapters.base import BrokenOutput, Request

        start = time.monotonic()
        requests = []
        for part in parts:
            order = part.job.order
            shown = picture.decoded(self.media.get(picture_key(order.picture)), order.picture)
            requests.append(Request(shown, order.prompt, order.preset, order.seed))
        assert self._model is not None
        made = self._model.generate(requests, lambda done, of: self._step(parts, done))
        seconds = time.monotonic() - start
        for part, each in zip(parts, made, strict=True):
            if part.is_lost or part.is_over:
                continue
            with speaking(part.job.order.language):
                if isinstance(each, BrokenOutput):
                    self._fail([part], each.message)
                else:
                    self._keep(part, each, seconds, len(parts))

    def _step(self, parts: Sequence[_Part], done: int) -> None:
        """Tell of a step; stop when nobody wants any of it. A store that does not answer does not stop a video."""
        for part in parts:
            if part.is_lost or part.is_over:
                continue
            try:
                if not self.store.step(part.job, done):
                    self.store.stop(part.job)
                    part.is_over = True
            except LostClaim:
                part.is_lost = True
            except StoreUnavailable:
                continue
        if all(part.is_lost or part.is_over for part in parts):
            raise Stopped

    def _keep(self, part: _Part, made: Made, seconds: float, batch: int) -> None:
        """Put the video where it belongs, then say so. One that is not wanted any more is deleted again."""
        job = part.job
        key = video_key(job)
        with tempfile.TemporaryDirectory(prefix="jingxiang-") as folder:
            file = Path(folder) / "video.mp4"
            size = self._write(job.order, made, file)
            beside = provenance.sidecar(file)
            if beside.exists():  # first: no video is ever there without it
                self.media.put_file(sidecar_key(key), beside)
            self.media.put_file(key, file)
        outcome = Outcome(key, size, round(seconds, 2), made.unread, batch=batch)
        try:
            self._persist(lambda: self.store.finish(job, outcome))
            part.is_over = True
        except LostClaim:
            part.is_lost = True
            self.media.delete(key)
            self.media.delete(sidecar_key(key))

    def _write(self, order: Order, made: Made, file: Path) -> int:
        """The video with its marks; gives its size."""
        spec, marks = self.catalog.model(order.model), self.duty.marks
        how = provenance.of(spec, picture=order.picture, seed=order.seed, settings=order.settings())
        video.write(made.frames, file, fps=order.preset.fps, made=how, metadata=marks.metadata, labelled=marks.label,
                    producer=marks.producer)  # fmt: skip
        return file.stat().st_size

    def _fail(self, parts: Sequence[_Part], reason: str) -> None:
        for part in parts:
            if not (part.is_lost or part.is_over):
                with suppress(LostClaim):
                    self._persist(lambda job=part.job: self.store.fail(job, reason))  # type: ignore[misc]
                part.is_over = True

    def _persist(self, do: Callable[[], None]) -> None:
        """What came of a job must reach the store, also if that is being restarted just now."""
        deadline = time.monotonic() + PERSIST_S
        while True:
            try:
                return do()
            except StoreUnavailable as error:
                if time.monotonic() > deadline:
                    raise
                console.warn(error.message)
                time.sleep(PAUSE_S)

    # Signs of life

    def _report(self, state: WorkerState, **changes: Any) -> None:
        total, free = _memory()
        fresh = replace(self._status, state=state, total_bytes=total, free_bytes=free, models=self._there())
        self._status = replace(fresh, **{"reason": "", **changes})
        self._beat()

    def _beat(self) -> None:
        with self._lock, suppress(StoreUnavailable):
            self.store.beat(self._status)

    def _beat_until(self, ended: threading.Event) -> None:
        """In a thread: torch lets other threads run while it computes. Also looks for workers that do not beat."""
        watchman = Watchman(self.store, LEASE_S)
        while True:
            self._beat()
            with suppress(StoreUnavailable):
                watchman.look()
            if ended.wait(BEAT_S):
                return


def main(duty: Duty, jobs: str, media: str, catalog: Catalog, *, is_child: bool) -> int:
    """Work until told to stop. 1 if the store cannot be used at all."""
    control = Control()
    if is_child:
        control.follow_stdin()
    else:
        control.follow_signals()
    store = JobStore(Database(jobs))
    try:
        Worker(store, Media(media), catalog, duty, control).run()
    finally:
        store.close()
    return 0


def _device() -> str:
    return "CPU"


def _memory() -> tuple[int, int]:
    return 0, 0
