"""Who works, and what was measured where they do: read once, so that many questions can be answered from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from app import memory
from app.jobs.base import Job, WorkerStatus
from app.jobs.store import JobStore
from app.memory import Fit, Measurement, Refusal
from jingxiang.models import FULL, Catalog, ModelSpec, Preset
from jingxiang.presets import STANDARD


class Outlook(NamedTuple):
    """How many jobs come before one, in how many seconds it is begun if it waits, and how many it takes from now on if
    it runs; None: that cannot be told.
    """

    position: int = 0
    wait_s: float | None = None
    left_s: float | None = None


class Survey:
    """The workers are those of the moment when it was made; what was measured is read when it is first needed."""

    def __init__(
        self,
        store: JobStore,
        catalog: Catalog,
        workers: Sequence[WorkerStatus] | None = None,
        *,
        names_programs: bool = True,
    ) -> None:
        """`names_programs`: whether a refusal says which other programs hold memory."""
        self._names_programs = names_programs
        self.workers = tuple(store.workers() if workers is None else workers)
        self._store = store
        self._catalog = catalog
        self._measured: dict[tuple[str, str, str], list[Measurement]] = {}
        self._seconds: dict[tuple[str, str, str, Preset, str], float | None] = {}

    def later(self, workers: Sequence[WorkerStatus]) -> Survey:
        """With the workers as they are now, while nothing else has been measured."""
        found = Survey(self._store, self._catalog, workers)
        found._measured, found._seconds = self._measured, self._seconds
        return found

    def fit(self, spec: ModelSpec, preset: Preset) -> Fit | Refusal | None:
        """Whether a job fits into the memory of a worker that has the model; None if nobody knows."""
        found: list[Refusal] = []
        for worker in self.workers:
            if spec.name not in worker.models or worker.state == "failed":
                continue
            gpu, dtype = _where(worker)
            plan = memory.plan(spec, self._known(gpu, spec.name, dtype), worker.space, preset, gpu=gpu, dtype=dtype,
                               held_bytes=worker.held_bytes, own=(worker.pid,))  # fmt: skip
            if isinstance(plan, Fit):
                return plan
            found.append(plan)
        refusal = max(found, key=lambda each: each.usable_bytes, default=None)
        return refusal if refusal is None or self._names_programs else replace(refusal, holders=())

    def seconds(self, spec: ModelSpec, preset: Preset, rung: str = FULL) -> float | None:
        """How long a video takes on the first worker that has made one of about that size; None if none has."""
        for worker in self.workers:
            gpu, dtype = _where(worker)
            key = (gpu, spec.name, dtype, preset, rung)
            if key not in self._seconds:
                known = self._known(gpu, spec.name, dtype)
                self._seconds[key] = memory.seconds(known, preset, gpu=gpu, model=spec.name, dtype=dtype, rung=rung)
            if self._seconds[key] is not None:
                return self._seconds[key]
        return None

    def estimate(self, spec: ModelSpec, preset: Preset) -> tuple[Fit | Refusal | None, float | None]:
        """Both, with the time that it takes on the rung on which it fits."""
        fit = self.fit(spec, preset)
        return fit, self.seconds(spec, preset, fit.rung if isinstance(fit, Fit) else FULL)

    def recommended(self, spec: ModelSpec) -> str:
        """The preset that is meant for cards like the largest one that works here."""
        totals = [worker.space.total_bytes for worker in self.workers if worker.space and worker.space.is_gpu]
        found = self._catalog.presets.for_card(max(totals)) if totals else STANDARD
        return found if found in spec.presets else STANDARD

    def outlooks(self, active: Sequence[Job]) -> dict[str, Outlook]:
        """That of each job of `active`: all that wait or run, in the order of the queue."""
        workers = sum(worker.takes_jobs for worker in self.workers)
        found: dict[str, Outlook] = {}
        ahead_s: float | None = 0.0
        for position, job in enumerate(active):
            left_s = self.left_s(job)
            if job.state == "queued":
                found[job.id] = Outlook(position, ahead_s / workers if ahead_s is not None and workers else None)
            else:
                found[job.id] = Outlook(left_s=left_s)
            ahead_s = None if ahead_s is None or left_s is None else ahead_s + left_s
        return found

    def left_s(self, job: Job) -> float | None:
        """How long a job still takes, as far as that is known."""
        spec = self._catalog.models.get(job.order.model)
        total_s = self.seconds(spec, job.order.preset) if spec else None
        return None if total_s is None else total_s * (1 - job.step / job.steps)

    def _known(self, gpu: str, model: str, dtype: str) -> list[Measurement]:
        key = (gpu, model, dtype)
        if key not in self._measured:
            self._measured[key] = [Measurement(**values) for values in self._store.measured(*key)]
        return self._measured[key]


def _where(worker: WorkerStatus) -> tuple[str, str]:
    """Card and dtype of a worker; while it has no model, what it will most likely have."""
    is_gpu = worker.space is not None and worker.space.is_gpu
    return worker.gpu or ("" if is_gpu else "cpu"), worker.dtype or ("fp16" if is_gpu else "fp32")
