"""The worker: a process of its own that holds a model and makes videos; a crash in it does not take the page down.

It claims jobs from the store and writes to the store how they go, whether the app on this machine started it or it runs
alone on another one. As long as it lives it beats; see `jobs.store` for what happens when it does not.

Started by the app it is told things by lines on stdin: `begin` (the store is open), `wake` (a job may be waiting),
`drain` (end after what is being done). It ends at once when its stdin does: it never outlives the app.
"""

from __future__ import annotations

import io
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import batching, cards, logs, memory, provenance, video
from app.artifacts import Shelf, forget_marks
from app.generation import Order
from app.jobs.base import Job, LostClaim, Outcome, Speed, StoreUnavailable, WorkerState, WorkerStatus
from app.jobs.database import Database
from app.jobs.store import JobStore, Watchman
from app.media import Media, picture_key, sidecar_key, video_key
from app.speed import Booster
from app.texts import speaking, tr
from jingxiang import console
from jingxiang.errors import JingxiangError
from jingxiang.models import FULL, Catalog, Preset
from jingxiang.presets import STANDARD

if TYPE_CHECKING:
    from app.adapters.base import Look, Made, Model
    from app.adapters.base import Outcome as Run
    from app.adapters.previews import Picture

BEAT_S = 2.0
LEASE_S = 20.0  # a worker that has not beaten for so long is dead
POLL_S = 0.5  # how often the store is asked when nobody wakes us
PAUSE_S = 1.0  # before the store is asked again after it did not answer
# After these the CUDA context of a process is of no use any more.
STICKY = re.compile(
    r"CUDA error: (?!out of memory)|device-side assert|illegal memory access|unspecified launch failure"
)
AUTO = "auto"  # the dtype that suits the device
REHEARSED = 2  # steps that are made for nobody: what is compiled is captured in the second one
PREVIEW_S = 1.0  # between two pictures of how far a job is
QUALITY = 70  # of their JPEGs
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
    long without a job (0: never); `most`: videos made at once; `shelf`: where compiled artifacts are.
    """

    name: str
    model: str
    models: Path
    shelf: Shelf
    idle_s: float = 0.0
    most: int = 4
    marks: Marks = Marks()
    dtype: str = AUTO


class Stopped(Exception):
    """None of the jobs that are being made is wanted any more."""


class Control:
    """What a worker is told while it works."""

    def __init__(self) -> None:
        self.is_draining = False
        self._bell = threading.Event()
        self._begun = threading.Event()

    def begin(self) -> None:
        self._begun.set()

    def await_begin(self) -> None:
        """Until whoever started us has opened the store, which only one may do that heals or makes it."""
        self._begun.wait()

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
            self.is_draining = True  # seen within `POLL_S`; an Event must not be touched here: its lock may be held

        signal.signal(signal.SIGTERM, asked)

    def _read(self) -> None:
        doings: dict[str, Callable[[], None]] = {"begin": self.begin, "wake": self.wake, "drain": self.drain}
        for line in sys.stdin:
            doings.get(line.strip(), self.wake)()
        forget_marks()
        os._exit(0)


@dataclass
class _Part:
    """One job of those that are made together. `preview_due`: when its next preview is, by the monotonic clock."""

    job: Job
    is_lost: bool = False
    is_over: bool = False
    preview_due: float = -math.inf


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
        self._is_cold = True
        self._is_untried = True  # nothing was begun for nobody with the model that is loaded
        self._is_roomy = False  # all of the model is on the device, where alone what is compiled is used
        self._refused: set[str] = set()  # models that could not be loaded
        self._status = WorkerStatus(self.duty.name, "idle", models=self._there(), pid=os.getpid())
        self._lock = threading.RLock()
        self._booster = Booster(
            self.duty.shelf, self.duty.models, told=self._tell_speed, is_draining=lambda: self.control.is_draining
        )

    def run(self) -> None:
        """Until it is told to drain."""
        name = self.duty.name
        # Another process may have had this name, and have died without anybody noticing.
        self._persist(lambda: self.store.bury(name, tr("the worker {name} died in the middle of it", name=name)))
        ended = threading.Event()
        beating = threading.Thread(target=self._beat_until, args=(ended,), daemon=True, name="beat")
        beating.start()
        reason = ""
        try:
            if self.duty.model:
                self._load(self.duty.model)
            idle_since = time.monotonic()
            while not self.control.is_draining:
                self._booster.tend(self._model)
                if self._try_once():
                    idle_since = time.monotonic()
                elif self._model is not None and 0 < self.duty.idle_s < time.monotonic() - idle_since:
                    self._unload()
                    self._report("idle")
                elif self._model is not None and self._is_roomy:
                    self._booster.prepare(self._model)
                    if self._is_cold and self._is_untried and self._model.uuid:  # of a GPU
                        self._rehearse(self._model)
        except Exception as error:  # a mistake of ours: what it was doing must not come back for ever
            reason = _said(error)
            raise
        finally:
            self._booster.end()
            ended.set()
            beating.join()
            with suppress(StoreUnavailable):
                self.store.bury(name, reason)

    def _try_once(self) -> bool:
        """Load what was wished for, or make what waits, or wait for a moment. Whether there was something to do."""
        try:
            if self._heed() or self.control.is_draining:
                return True
            parts = [_Part(job) for job in self.store.claim(self.duty.name, self._models(), self._how_many)]
        except StoreUnavailable as error:
            console.warn(error.message)
            self.control.wait(PAUSE_S)
            return False
        if not parts:
            if self._status.state == "busy" and self._model is not None:
                self._report("ready")
            self.control.wait(POLL_S)
            return False
        self._do(parts)
        return True

    def _models(self) -> list[str]:
        """Those that we take jobs of. One that could not be loaded is left to others, as long as there are any."""
        if not self._refused:
            return list(self._status.models)
        others = {name for worker in self._others() for name in worker.models}
        return [name for name in self._status.models if name not in self._refused or name not in others]

    def _others(self) -> list[WorkerStatus]:
        return [worker for worker in self.store.workers() if worker.takes_jobs and worker.name != self.duty.name]

    def _how_many(self, first: Job) -> int:
        """How many like the first one are made at once: as many as fit, if that is known to save time, or not known;
        and not more than our share, since another worker must not stand idle.
        """
        order, model = first.order, self._model
        if self.duty.most == 1 or model is None or self._status.model != order.model:
            return 1
        known = self._known(model)

        def fits(batch: int) -> bool:
            planned = self._plan(model, order.preset, batch, known)
            return isinstance(planned, memory.Fit) and self._booster.suits(model, order.preset, batch)

        able = sum(worker.takes_jobs for worker in self.store.workers())
        share = math.ceil(self.store.depth()["queued"] / max(1, able))
        return batching.size(known, order.preset, min(self.duty.most, share), fits, rung=FULL)

    def _known(self, model: Model) -> list[memory.Measurement]:
        """What was measured of the model that is loaded; nothing if the store does not answer."""
        with suppress(StoreUnavailable):
            found = self.store.measured(model.gpu, model.spec.name, model.dtype_name)
            return [memory.Measurement(**values) for values in found]
        return []

    def _plan(
        self, model: Model, preset: Preset, batch: int, known: Sequence[memory.Measurement]
    ) -> memory.Fit | memory.Refusal:
        return memory.plan(
            model.spec, known, cards.of(model.uuid), preset, batch, gpu=model.gpu, dtype=model.dtype_name,
            held_bytes=model.held_bytes, own=(os.getpid(),),
        )  # fmt: skip

    # The model

    def _there(self) -> tuple[str, ...]:
        """The models in our folder."""
        names = (name for name in self.catalog.models if (self.duty.models / name / "model_index.json").exists())
        return tuple(names)

    def _heed(self) -> bool:
        """Load what somebody wishes to have loaded. Whether there was a wish."""
        wish = self.store.wish_of(self.duty.name)
        if wish:
            self.store.fulfil(self.duty.name, wish)
            self._load(wish)
        return bool(wish)

    def _load(self, name: str) -> bool:
        """Load a model, the old one being gone first. What goes wrong is said, and is not our end."""
        from app import adapters

        self._booster.end()  # its memory is the model's
        self._unload()
        self._report("loading", model=name)
        start = time.monotonic()
        rung = self._first_rung(name)
        self._is_roomy = rung == FULL
        try:
            self._model = adapters.load(
                self.catalog.model(name), self.duty.models / name, dtype=self.duty.dtype, rung=rung
            )
        except Exception as error:  # any library may raise anything for a model that is not whole
            message = _said(error)
            logs.event(logs.TROUBLE, model=name, worker=self.duty.name, error=error)
            self._refused.add(name)
            self._report("failed", model="", reason=message)
            return False
        console.line("model", tr("{title} loaded in {seconds:.1f} s", title=self.catalog.model(name).title,
                                 seconds=time.monotonic() - start))  # fmt: skip
        self._is_cold = self._is_untried = True
        self._refused.discard(name)
        logs.event(logs.LOADED, model=name, worker=self.duty.name, seconds=time.monotonic() - start)
        self._report("ready", model=name, gpu=self._model.gpu, dtype=self._model.dtype_name)
        return True

    def _first_rung(self, name: str) -> str:
        """Where the weights go: to the device, if there is room for them and for a video."""
        spec, space = self.catalog.model(name), cards.expected()
        number = self.duty.dtype if self.duty.dtype != AUTO else "fp16" if space and space.is_gpu else "fp32"
        found = memory.plan(spec, (), space, spec.preset(STANDARD), gpu="", dtype=number)
        return found.rung if isinstance(found, memory.Fit) else list(spec.rungs)[-1]

    def _unload(self) -> None:
        model, self._model = self._model, None
        if model is not None:
            self._booster.forget()
            model.close()
            with self._lock:
                self._status = replace(self._status, model="", gpu="", dtype="")

    def _rehearse(self, model: Model) -> None:
        """Begin a video for nobody while there is nothing else to do: the first steps in a process take seconds longer,
        since libraries choose and load their kernels then. Somebody's job stops it within a step.
        """
        from PIL import Image

        from app.adapters.base import Request

        self._is_untried = False
        preset = replace(model.spec.preset(STANDARD), steps=REHEARSED)
        fit = self._plan(model, preset, 1, self._known(model))
        if not isinstance(fit, memory.Fit) or fit.rung != FULL:
            return

        def go_on(*_: object) -> None:
            if self.control.is_draining or self.store.depth()["queued"]:
                raise Stopped

        try:
            go_on()
            self._is_cold = False
            picture = Image.new("RGB", (preset.width, preset.height), "white")
            model.generate([Request(picture, "a picture" if model.spec.takes_prompt else "", preset, 0)], go_on)
        except (Stopped, StoreUnavailable):
            pass
        except Exception as error:  # it costs nobody a video
            logs.event(logs.TROUBLE, model=model.spec.name, worker=self.duty.name, error=error)
            if STICKY.search(str(error)):
                raise

    # Jobs

    def _do(self, parts: list[_Part]) -> None:
        """Make videos for jobs of one lot. Whatever goes wrong is an end of the jobs, not of the worker."""
        wanted = parts[0].job.order
        try:
            with speaking(wanted.language), logs.hiding(*_prompts(parts)):
                if (self._model is None or self._status.model != wanted.model) and not self._load(wanted.model):
                    if any(wanted.model in worker.models for worker in self._others()):
                        self._give_back(parts)
                        return
                    raise JingxiangError(tr("the model is not loaded: {reason}", reason=self._status.reason))
                if self._status.state != "busy":  # else the last job was followed by this one at once
                    self._report("busy")
                self._make(parts)
        except Stopped:
            pass
        except Exception as error:  # any library may raise anything; who asked must see it, and the next job must run
            with logs.hiding(*_prompts(parts)):
                self._fail(parts, error)
            if STICKY.search(str(error)):
                raise  # no run succeeds in this process any more: the next one may

    def _give_back(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            self._persist(lambda job=part.job: self.store.give_back(job))  # type: ignore[misc]

    def _make(self, parts: list[_Part]) -> None:
        from app import picture
        from app.adapters.base import BrokenOutput, Request

        start = time.monotonic()
        requests = []
        for part in list(parts):
            order = part.job.order
            try:
                shown = picture.decoded(self.media.get(picture_key(order.picture)), order.picture)
            except JingxiangError as error:
                self._fail([part], error)
                parts.remove(part)
            else:
                requests.append(Request(shown, order.prompt, order.preset, order.seed, order.negative))
        if not parts:
            return
        model, preset = self._model, requests[0].preset
        assert model is not None
        known = self._known(model)
        fit = self._plan(model, preset, len(requests), known)
        if self._booster.is_compiling and not (isinstance(fit, memory.Fit) and fit.rung == FULL):
            self._booster.end()  # no video has less memory because of it
            fit = self._plan(model, preset, len(requests), known)
        if isinstance(fit, memory.Refusal):
            raise JingxiangError(fit.message)
        if fit.rung == FULL:
            self._booster.ready(model, preset, len(requests))
        else:
            how = memory.rung_texts()[fit.rung]
            console.line("memory", tr("little memory is free, so it takes longer: it is made {how}", how=how))
        run = model.generate(requests, lambda done, of, look: self._step(parts, done, look), fit.rung)
        if not any(part.is_over or part.is_lost for part in parts):
            measured = memory.measurement(model, preset, len(requests), run)
            if self._is_cold and known:  # it also loaded the kernels of libraries
                measured = replace(measured, seconds=0.0)
            self._is_cold = False
            with suppress(StoreUnavailable):
                self.store.measure(measured.gpu, measured.model, measured.dtype, asdict(measured))
        seconds = time.monotonic() - start
        for part, each in zip(parts, run.made, strict=True):
            if part.is_lost or part.is_over:
                continue
            with speaking(part.job.order.language):
                if isinstance(each, BrokenOutput):
                    self._fail([part], each)
                    continue
                try:
                    self._keep(part, each, run, seconds)
                except Exception as error:  # the others' videos may be kept all the same
                    self._fail([part], error)
        if run.rung == FULL:
            self._booster.follow(model, parts[0].job.order)
        else:  # memory is short, or ran out
            self._booster.end()

    def _step(self, parts: Sequence[_Part], done: int, look: Look) -> None:
        """Tell of a step; stop when nobody wants any of it. A store that does not answer does not stop a video."""
        for number, part in enumerate(parts):
            if part.is_lost or part.is_over:
                continue
            try:
                if not self.store.step(part.job, done):
                    self.store.stop(part.job)
                    part.is_over = True
                elif time.monotonic() >= part.preview_due:
                    part.preview_due = time.monotonic() + PREVIEW_S
                    self._preview(part.job, done, look, number)
            except LostClaim:
                part.is_lost = True
            except StoreUnavailable:
                continue
        if all(part.is_lost or part.is_over for part in parts):
            raise Stopped

    def _preview(self, job: Job, done: int, look: Look, number: int) -> None:
        """Show how far a video is, if it can be shown: nothing of that may be the end of it."""
        try:
            shown = look(number)
            image = None if shown is None else _jpeg(shown)
        except Exception as error:
            logs.event(logs.TROUBLE, job=job.id, worker=self.duty.name, error=error)
            return
        if image is not None:
            self.store.preview(job, done, image)

    def _keep(self, part: _Part, made: Made, run: Run, seconds: float) -> None:
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
        outcome = Outcome(
            key, size, round(seconds, 2), made.unread, run.rung, run.retried_from, run.peak_bytes, len(run.made)
        )
        try:
            self._persist(lambda: self.store.finish(job, outcome))
            part.is_over = True
            logs.event(
                logs.DONE, job=job.id, model=job.order.model, worker=self.duty.name, seconds=outcome.seconds,
                peak_bytes=outcome.peak_bytes or None, rung=outcome.rung,
            )  # fmt: skip
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

    def _fail(self, parts: Sequence[_Part], error: Exception) -> None:
        if not isinstance(error, JingxiangError):
            traceback.print_exception(error)
        for part in parts:
            if part.is_lost or part.is_over:
                continue
            job = part.job
            logs.event(logs.FAILED, job=job.id, model=job.order.model, worker=self.duty.name, error=error)
            with suppress(LostClaim):
                self._persist(lambda job=job: self.store.fail(job, _said(error)))  # type: ignore[misc]
            part.is_over = True

    def _persist(self, do: Callable[[], object]) -> None:
        """What came of a job must reach the store, also if that is being restarted just now."""
        deadline = time.monotonic() + PERSIST_S
        while True:
            try:
                do()
                return
            except StoreUnavailable as error:
                if time.monotonic() > deadline:
                    raise
                console.warn(error.message)
                time.sleep(PAUSE_S)

    # Signs of life

    def _report(self, state: WorkerState, **changes: Any) -> None:
        with self._lock:
            self._status = replace(self._status, state=state, **{"reason": "", **changes})
            self._beat()

    def _tell_speed(self, speed: Speed, size: str) -> None:
        with self._lock:
            self._status = replace(self._status, speed=speed, speed_of=size)
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            model = self._model
            space, held_bytes = cards.of(model.uuid) if model else cards.expected(), model.held_bytes if model else 0
            self._status = replace(self._status, space=space, held_bytes=held_bytes, models=self._there())
            with suppress(StoreUnavailable):
                self.store.beat(self._status)

    def _beat_until(self, ended: threading.Event) -> None:
        """In a thread: torch lets other threads run while it computes. Also looks for workers that do not beat."""
        watchman = Watchman(self.store, LEASE_S)
        while True:
            try:
                self._beat()
                watchman.look()
            except StoreUnavailable:
                pass
            except Exception as error:  # without a beat others would take our jobs
                logs.event(logs.TROUBLE, worker=self.duty.name, error=error)
                traceback.print_exc()
            if ended.wait(BEAT_S):
                return


def main(duty: Duty, jobs: str, media: str, catalog: Catalog, *, is_child: bool) -> int:
    """Work until told to stop."""
    from app import adapters

    control = Control()
    if is_child:
        control.follow_stdin()
        adapters.import_torch()  # while the app opens the store
        control.await_begin()
    else:
        control.follow_signals()
    store = JobStore(_opened(jobs))
    try:
        Worker(store, Media(media), catalog, duty, control).run()
    finally:
        store.close()
    return 0


def _opened(jobs: str) -> Database:
    """Wait for a database that is being started, too."""
    while True:
        try:
            return Database(jobs)
        except StoreUnavailable as error:
            console.warn(error.message)
            time.sleep(PAUSE_S)


def _prompts(parts: Sequence[_Part]) -> list[str]:
    """All that users have written."""
    orders = [part.job.order for part in parts]
    return [text for order in orders for text in (order.prompt, order.negative)]


def _jpeg(picture: Picture) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, subsampling=0)  # it is so small that each pixel counts
    return file.getvalue()


def _said(error: Exception) -> str:
    """As every database takes it: without what is no character."""
    text = error.message if isinstance(error, JingxiangError) else f"{type(error).__name__}: {error}"
    return text.replace("\0", "").encode("utf-8", "replace").decode()
