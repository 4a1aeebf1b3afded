"""app.watch"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import watch as watches
from app.generation import Order
from app.jobs.base import Job, Limits, Outcome
from app.jobs.database import Database
from app.jobs.store import JobStore
from app.watch import Watch
from jingxiang.models import Preset

ORDER = Order("smoke", "ab" * 32, "a cat", "fast", Preset(64, 64, 8, 4, 8, 9.0), 7, "en")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(Database(f"sqlite:///{tmp_path}/jobs.sqlite3"))
    yield opened
    opened.close()


@contextlib.asynccontextmanager
async def running(watch: Watch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def to_the_end(watch: Watch, number: str) -> list[Job]:
    return [job async for job in watch.follow(number)]


def submit(store: JobStore) -> str:
    return store.submit(ORDER, limits=Limits(100)).id


def test_everybody_hears_each_change_to_the_end(store: JobStore) -> None:
    async def main() -> None:
        number = submit(store)
        watch = Watch(store)
        async with running(watch):
            listeners = [asyncio.create_task(to_the_end(watch, number)) for _ in range(3)]
            await asyncio.sleep(0.05)
            (job,) = store.claim("w1", ["smoke"])
            for step in (1, 2):
                store.step(job, step)
                await asyncio.sleep(0.25)
            store.finish(job, Outcome("videos/x.mp4", 1, 1.0))
            told = await asyncio.gather(*listeners)
        for each in told:
            assert [(job.state, job.step) for job in each] == [
                ("queued", 0),
                ("running", 1),
                ("running", 2),
                ("done", 4),
            ]

    asyncio.run(main())


def test_a_question_that_was_asked_before_somebody_came_says_nothing_of_his_job(store: JobStore) -> None:
    """Its answer comes when he listens already, and does not name the job."""
    asked, answer = threading.Event(), threading.Event()
    these = store.these

    def slowly(numbers: Collection[str]) -> dict[str, Job]:
        found = these(numbers)
        asked.set()
        assert answer.wait(20)
        return found

    store.these = slowly  # type: ignore[method-assign]

    async def main() -> None:
        first, second = submit(store), submit(store)
        watch = Watch(store)
        async with running(watch):
            early = asyncio.create_task(to_the_end(watch, first))
            await asyncio.to_thread(asked.wait, 20)
            late = asyncio.create_task(to_the_end(watch, second))
            await asyncio.sleep(0.1)
            answer.set()
            await asyncio.sleep(0.3)
            assert not late.done()
            for number in (first, second):
                store.cancel(number)
            assert [job.state for job in await late][-1] == "cancelled"
            await early

    asyncio.run(main())


def test_a_job_that_is_deleted_is_the_end(store: JobStore) -> None:
    async def main() -> None:
        number = submit(store)
        watch = Watch(store)
        async with running(watch):
            listener = asyncio.create_task(to_the_end(watch, number))
            await asyncio.sleep(0.05)
            with store._database.write() as connection:
                connection.exec_driver_sql("DELETE FROM jobs")
            assert [job.state for job in await listener] == ["queued"]

    asyncio.run(main())


def test_who_waits_hears_that_it_goes_on(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the job itself changes, but what is in front of it does."""
    monkeypatch.setattr(watches, "WAITING_S", 0.0)

    async def main() -> None:
        number = submit(store)
        watch = Watch(store)
        async with running(watch):
            told = watch.follow(number)
            assert [(await told.__anext__()).state for _ in range(3)] == ["queued"] * 3
            watch.is_closing = True  # the server is about to stop
            assert [job.state async for job in told] in ([], ["queued"])

    asyncio.run(main())


def test_a_store_that_is_away_is_asked_again(store: JobStore) -> None:
    these, calls = store.these, iter([RuntimeError("away"), RuntimeError("away")])

    def sometimes(numbers: Collection[str]) -> Any:
        for error in calls:
            raise error
        return these(numbers)

    store.these = sometimes  # type: ignore[method-assign]

    async def main() -> None:
        number = submit(store)
        watch = Watch(store)
        async with running(watch):
            listener = asyncio.create_task(to_the_end(watch, number))
            await asyncio.sleep(0.05)
            store.cancel(number)
            assert [job.state for job in await listener] == ["queued", "cancelled"]

    asyncio.run(main())
