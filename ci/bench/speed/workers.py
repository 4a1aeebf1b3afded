"""`invoke bench gpu --workers`: how many videos all cards make in a time, against one of them alone.

Through the real queue, with the workers that the app starts: one process for each card. What is on the shelf of the
folder is used, and nothing is compiled for this. On a machine without GPUs two workers share the CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from app import generation, picture
from app.adapters import keys
from app.artifacts import Shelf
from app.crew import VISIBLE, Crew, Recruit
from app.jobs.base import Job, Limits
from app.jobs.database import Database
from app.jobs.store import JobStore
from app.media import Media, picture_key
from ci.bench import report
from ci.bench.report import Figure
from ci.bench.speed import card, cases
from ci.bench.speed.cases import Case
from jingxiang.models import Preset
from jingxiang.presets import STANDARD

JOBS = 3  # for each worker
WARM_JOBS, WARM_STEPS = 2, 2  # for each worker: it loads the kernels of libraries
SHARE = 0.95  # of what as many cards would make if none was in another one's way
LONGEST_S = 300.0  # for one round of jobs
WIDE = Limits(waiting=1000)


def main(folder: Path, name: str, *, tiny: bool, commit: str) -> int:
    ((case, _),) = cases.made(folder / "models", [name], tiny=tiny)
    cards = [str(number) for number in range(torch.cuda.device_count())] or ["0", "1"]
    if len(cards) < 2:
        sys.stderr.write("error: this bench needs two GPUs\n")
        return 1
    alone = throughput(case, folder, cards[:1])
    together = throughput(case, folder, cards)
    ratio = round(together / alone, 2)
    peers = {"videos an hour, one worker": round(alone * 3600, 1), f"{len(cards)} workers": round(together * 3600, 1)}
    figures = [Figure("workers_ratio", ratio, "x", round(SHARE * len(cards), 2), "higher", peers)]
    notes = [f"{case.name}, {JOBS} videos for each of {len(cards)} workers"]
    details = {"machine": card.card(commit), "preset": asdict(case.preset)}
    report.show("workers", figures, notes, **details)
    return 0


def throughput(case: Case, folder: Path, cards: Sequence[str]) -> float:
    """Videos a second, from the first one's start to the last one's end."""
    inherited = {VISIBLE: ",".join(cards), **({} if _is_compiled(case, folder) else {"JINGXIANG_COMPILE": "never"})}
    with tempfile.TemporaryDirectory(prefix="bench-workers-", dir=folder) as scratch, _environment(**inherited):
        outputs = Path(scratch)
        address = f"sqlite:///{outputs / 'jobs.sqlite3'}"
        options = (
            "--batch", "1",  # else one worker could make several at once
            "--outputs", str(outputs), "--artifacts", str(folder / "artifacts"),
        )  # fmt: skip
        recruit = Recruit(case.name, folder / "models", address, str(outputs), options)
        store = JobStore(Database(address, heals=True))
        try:
            return asyncio.run(_measured(case, Crew(recruit), store, Media(str(outputs)), len(cards)))
        finally:
            store.close()


def _is_compiled(case: Case, folder: Path) -> bool:
    """Else workers would begin to compile beside the videos that are timed."""
    key = keys.key(case.spec, case.folder, case.preset, dtype="auto")
    return key is not None and Shelf(folder / "artifacts").find(key) is not None


async def _measured(case: Case, crew: Crew, store: JobStore, media: Media, count: int) -> float:
    crew.begin(store)
    running = asyncio.create_task(crew.run())
    try:
        await _until(lambda: sum(each.state == "ready" for each in store.workers()) == count, crew)
        await _made(case, crew, store, media, WARM_JOBS * count, replace(case.preset, steps=WARM_STEPS))
        jobs = await _made(case, crew, store, media, JOBS * count, case.preset)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    seconds = max(job.ended or 0 for job in jobs) - min(job.started or 0 for job in jobs)
    return len(jobs) / seconds


async def _made(case: Case, crew: Crew, store: JobStore, media: Media, count: int, preset: Preset) -> list[Job]:
    """So many jobs, when all are done. Raises `RuntimeError` if one is not."""
    shown = picture.normalized(cases.PICTURE.read_bytes(), cases.PICTURE.name)
    media.put(picture_key(shown.sha256), shown.png)
    numbers = []
    for seed in range(count):
        asked = generation.order(
            case.spec, picture=shown.sha256, prompt=case.request().prompt, preset=STANDARD, seed=seed,
            changes=asdict(preset),
        )  # fmt: skip
        numbers.append(store.submit(asked, limits=WIDE).id)
    crew.wake()
    await _until(lambda: not any(store.depth().values()), crew)
    jobs = list(store.these(numbers).values())
    if failed := [job.reason for job in jobs if job.state != "done"]:
        raise RuntimeError(f"{len(failed)} of {count} jobs failed: {failed[0]}")
    return jobs


async def _until(condition: Callable[[], bool], crew: Crew) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(crew.reason)
        await asyncio.sleep(0.05)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """What the workers inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
