"""app.board: what a page is told, on SQLite and on PostgreSQL"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from app.board import Board, Gone, News, Shown, Status, Trouble
from app.cards import Space
from app.desk import Desk, Quota
from app.generation import Order
from app.jobs.base import Job, Limits, Outcome, WorkerStatus
from app.jobs.database import Database
from app.jobs.store import JobStore
from app.media import Media
from app.memory import Measurement
from jingxiang import models
from jingxiang.models import Preset
from tests.peers import postgres

CATALOG = models.load(Path(__file__).resolve().parent.parent / "app" / "models.toml")
PRESET = Preset(64, 64, 8, 4, 8, 9.0)
ORDER = Order("smoke", "ab" * 32, "a cat", "fast", PRESET, 7, "en")
GIB = 1 << 30
WORKER = WorkerStatus("w1", "ready", "smoke", ("smoke",), "cpu", "fp32", Space(False, 100 * GIB, 50 * GIB), GIB, 12)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with postgres.or_sqlite(request.param, tmp_path) as there:
        yield there


@pytest.fixture
def desk(url: str, tmp_path: Path) -> Iterator[Desk]:
    store = JobStore(Database(url))
    media = Media(str(tmp_path / "media"))
    yield Desk(store, media, CATALOG, "smoke", crew=None, limits=Limits(5), quota=Quota())
    store.close()


@pytest.fixture
def board(desk: Desk, tmp_path: Path) -> Board:
    return Board(desk, tmp_path / "outputs")  # which is not there yet


class Listener:
    """What one was told, in order."""

    def __init__(self) -> None:
        self.news: list[News] = []

    def told(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.news if isinstance(each, kind)]

    def states(self, number: str) -> list[tuple[str, int]]:
        return [(each.job.state, each.job.step) for each in self.told(Shown) if each.job.id == number]


@contextlib.asynccontextmanager
async def listening(board: Board, *owners: str | None) -> AsyncIterator[list[Listener]]:
    """Each has been told what there is."""
    listeners = [Listener() for _ in owners]

    async def listen(listener: Listener, owner: str | None) -> None:
        async with contextlib.aclosing(board.listen(owner)) as told:
            async for news in told:
                listener.news.append(news)

    tasks = [asyncio.create_task(listen(*each)) for each in zip(listeners, owners, strict=True)]
    try:
        await until(lambda: all(listener.told(Status) for listener in listeners))
        yield listeners
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def looked(desk: Desk, listener: Listener) -> None:
    """All that has happened was told: so was a change that came after it."""
    mark = desk.store.submit(ORDER, owner="mark", limits=Limits(100))
    await until(lambda: bool(listener.states(mark.id)))
    desk.store.cancel(mark.id)
    await until(lambda: ("cancelled", 0) in listener.states(mark.id))
    desk.store.delete(mark.id)
    await until(lambda: Gone(mark.id) in listener.news)


def submit(desk: Desk, owner: str) -> str:
    return desk.store.submit(ORDER, owner=owner, limits=Limits(100)).id


def claimed(desk: Desk) -> Job:
    (job,) = desk.store.claim("w1", ["smoke"])
    return job


def outlook(shown: Shown) -> tuple[int, float | None]:
    return shown.position, None if shown.wait_s is None else round(shown.wait_s, 6)


def test_each_is_told_of_his_own_jobs_and_who_is_in_charge_of_all(desk: Desk, board: Board) -> None:
    async def main() -> None:
        old = submit(desk, "li")
        async with listening(board, "li", "wang", None) as (li, wang, chief):
            assert [[each.job.id for each in listener.news[0]] for listener in (li, wang, chief)] == [  # type: ignore[union-attr]
                [old], [], [old],
            ]  # fmt: skip
            job = claimed(desk)
            await until(lambda: bool(li.states(old)))
            desk.store.step(job, 2)
            await until(lambda: ("running", 2) in li.states(old))
            desk.store.finish(job, Outcome("videos/x.mp4", 1, 1.0))
            await until(lambda: ("done", 4) in li.states(old))
            own = submit(desk, "wang")
            await until(lambda: bool(wang.states(own)))
            await looked(desk, chief)
            assert li.states(old) == chief.states(old) == [("running", 0), ("running", 2), ("done", 4)]
            assert li.states(own) == wang.states(old) == []
            assert [(each.queued, each.running) for each in li.told(Status)][:4] == [(1, 0), (0, 1), (0, 0), (1, 0)]

    asyncio.run(main())


def test_what_is_deleted_or_pinned_or_retried_is_told_however_old_it_is(
    desk: Desk, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.board.FIRST", 1)

    async def main() -> None:
        numbers = [submit(desk, owner) for owner in ("li", "li", "wang")]
        for number in numbers:
            desk.store.cancel(number)
        async with listening(board, "li", "wang", None) as (li, wang, chief):
            assert all(len(listener.news[0]) == 1 for listener in (li, wang, chief))  # type: ignore[arg-type]
            desk.store.pin(numbers[0])
            await until(lambda: [each.job.is_pinned for each in li.told(Shown)] == [True])
            desk.store.delete(numbers[0])
            await until(lambda: li.told(Gone) == [Gone(numbers[0])])
            desk.store.retry(numbers[1])
            await until(lambda: li.states(numbers[1]) == [("queued", 0)])
            desk.store.cancel(numbers[1])
            await until(lambda: li.states(numbers[1]) == [("queued", 0), ("cancelled", 0)])
            desk.store.delete(numbers[2])
            await until(lambda: wang.told(Gone) == [Gone(numbers[2])])
            assert li.told(Gone) == [Gone(numbers[0])]
            assert chief.told(Gone) == [Gone(numbers[0]), Gone(numbers[2])]
            assert wang.told(Shown) == []

    asyncio.run(main())


def test_who_waits_is_told_of_his_place_and_of_a_wait_that_is_another_one(desk: Desk, board: Board) -> None:
    preset = replace(PRESET, steps=100)
    run = Measurement("cpu", "smoke", "fp32", "full", 64, 64, 8, 1, 100, 1, 100.0)

    async def main() -> None:
        desk.store.beat(WORKER)
        desk.store.measure("cpu", "smoke", "fp32", vars(run))
        for _ in range(3):
            desk.store.submit(replace(ORDER, preset=preset), limits=Limits(100))
        job = claimed(desk)
        async with listening(board, None) as (listener,):
            first, second, third = (each.job.id for each in listener.news[0])  # type: ignore[union-attr]
            outlooks = [outlook(each) for each in listener.news[0]]  # type: ignore[union-attr]
            assert outlooks == [(0, None), (1, 100.0), (2, 200.0)]

            def told(number: str) -> list[tuple[int, float | None]]:
                return [outlook(each) for each in listener.told(Shown) if each.job.id == number]

            desk.store.step(job, 1)  # a second less of a hundred
            await until(lambda: ("running", 1) in listener.states(first))
            desk.store.step(job, 10)
            await until(lambda: told(third) == [(2, 190.0)])
            desk.store.move(third, 0)
            await until(lambda: told(third)[1:] == [(1, 90.0)])
            desk.store.finish(job, Outcome("videos/x.mp4", 1, 1.0))
            await until(lambda: told(third)[2:] == [(0, 0.0)])
            assert told(second) == [(1, 90.0), (2, 190.0), (1, 100.0)]

    asyncio.run(main())


def test_what_has_not_changed_is_not_read_and_what_has_is_read_once_for_all(
    desk: Desk, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.board.LOOK_S", 0.01)
    glance, mark = Mock(wraps=desk.store.glance), Mock(wraps=desk.store.mark)
    monkeypatch.setattr(desk.store, "glance", glance)
    monkeypatch.setattr(desk.store, "mark", mark)

    async def main() -> None:
        async with listening(board, *["li"] * 20) as listeners:
            await until(lambda: mark.call_count > 20)
            assert glance.call_count == 1
            number = submit(desk, "li")
            await until(lambda: all(listener.states(number) for listener in listeners))
            assert glance.call_count == 2
        await asyncio.sleep(0.1)  # for a look that was under way
        asked = mark.call_count
        await asyncio.sleep(0.1)
        assert mark.call_count == asked  # nobody listens
        desk.store.cancel(number)
        async with listening(board, "li") as (again,):
            assert [each.job.state for each in again.news[0]] == ["cancelled"]  # type: ignore[union-attr]

    asyncio.run(main())


def test_the_status_is_told_when_it_matters(desk: Desk, board: Board) -> None:
    async def main() -> None:
        desk.store.beat(WORKER)
        number = submit(desk, "wang")
        desk.store.cancel(number)
        async with listening(board, "li", None) as (li, chief):
            (status,) = li.told(Status)
            assert (status.model, status.loading, status.queued, status.running, status.waiting_limit) == (
                "smoke", "", 0, 0, 5,
            )  # fmt: skip
            assert 0 < status.disk_free_bytes <= status.disk_total_bytes
            assert not status.is_draining

            desk.store.beat(replace(WORKER, space=Space(False, 100 * GIB, 50 * GIB - GIB // 2)))
            desk.store.pin(number)
            await until(lambda: bool(chief.told(Shown)))
            assert li.told(Status) == chief.told(Status) == [status]
            desk.store.beat(replace(WORKER, space=Space(False, 100 * GIB, 49 * GIB)))
            await until(lambda: len(li.told(Status)) == 2)
            assert li.told(Status)[-1].workers[0].space.free_bytes == 49 * GIB
            desk.store.beat(replace(WORKER, state="loading", model="svd-xt"))
            await until(lambda: li.told(Status)[-1].loading == "svd-xt")
            desk.is_draining = True
            await until(lambda: li.told(Status)[-1].is_draining)

    asyncio.run(main())


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_store_that_is_restarted_is_said_and_then_all_is_told_anew(desk: Desk, board: Board) -> None:
    async def main() -> None:
        number = submit(desk, "li")
        async with listening(board, "li", "wang") as listeners:
            await asyncio.to_thread(postgres.stop)
            try:
                await until(lambda: all(listener.told(Trouble) for listener in listeners))
                async with contextlib.aclosing(board.listen("li")) as late:
                    assert await asyncio.wait_for(anext(late), 20) == Trouble()
            finally:
                await asyncio.to_thread(postgres.start)
            li, wang = listeners
            await until(lambda: len(li.told(tuple)) == len(wang.told(tuple)) == 2)
            assert [each.job.id for each in li.told(tuple)[1]] == [number]
            assert wang.told(tuple)[1] == ()
            await until(lambda: all(isinstance(listener.news[-1], Status) for listener in listeners))
            desk.store.cancel(number)
            await until(lambda: ("cancelled", 0) in li.states(number))
            assert len(li.told(Trouble)) == 1

    asyncio.run(main())


def test_a_file_that_cannot_be_read_is_said_and_then_all_is_told_anew(
    desk: Desk, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it fails only for who reads his jobs."""

    def broken(**_: object) -> list[Job]:
        raise RuntimeError("broken")

    async def main() -> None:
        number = submit(desk, "li")
        async with listening(board, "li") as (li,):
            monkeypatch.setattr(desk.store, "glance", broken)
            desk.store.cancel(number)
            await until(lambda: bool(li.told(Trouble)))
            monkeypatch.undo()
            await until(lambda: len(li.told(tuple)) == 2)
            assert [each.job.state for each in li.told(tuple)[1]] == ["cancelled"]

    asyncio.run(main())
