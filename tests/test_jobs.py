"""app.jobs: every change of a job, on SQLite and on PostgreSQL"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect

from app.cards import Holder, Space
from app.generation import Order
from app.jobs import store as jobs_store
from app.jobs import tables
from app.jobs.base import (
    Ended,
    Job,
    Limits,
    LostClaim,
    OtherJob,
    Outcome,
    OwnerLimit,
    QueueFull,
    StoreUnavailable,
    UnknownJob,
    WorkerStatus,
    WrongState,
)
from app.jobs.database import Damaged, Database
from app.jobs.store import JobStore, Watchman, new_id
from jingxiang.errors import UsageError
from jingxiang.models import Preset
from tests.peers import postgres

PRESET = Preset(64, 64, 8, 4, 8, 9.0)
WIDE = Limits(waiting=100)
VIDEO = Outcome("videos/x.mp4", 1000, 1.5)


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with postgres.or_sqlite(request.param, tmp_path) as there:
        yield there


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[JobStore]:
    opened = JobStore(Database(url), clock)
    yield opened
    opened.close()


def order(seed: int = 7, *, model: str = "smoke", preset: Preset = PRESET, prompt: str = "a cat") -> Order:
    return Order(model, "ab" * 32, prompt, "fast", preset, seed, "en")


def status(name: str = "w1", state: str = "ready", **changes: object) -> WorkerStatus:
    space = Space(True, 8 << 30, 4 << 30, (Holder(4711, "python", 1 << 30),))
    told = WorkerStatus(name, "ready", "smoke", ("smoke",), "H100", "fp16", space, 1 << 30, 12)
    return replace(told, state=state, **changes)  # type: ignore[arg-type]


def submit(store: JobStore, count: int, **changes: object) -> list[Job]:
    return [store.submit(order(number), limits=WIDE, **changes) for number in range(count)]  # type: ignore[arg-type]


def claimed(store: JobStore, worker: str = "w1") -> Job:
    (job,) = store.claim(worker, ["smoke"])
    return job


def test_a_job_from_beginning_to_end(store: JobStore, clock: Clock) -> None:
    job = store.submit(order(), owner="li")
    assert (job.state, job.step, job.claim, job.owner, job.order, job.created) == (
        "queued", 0, 0, "li", order(), 1_000_000.0,
    )  # fmt: skip
    assert store.depth() == {"queued": 1, "running": 0}
    clock.now += 10
    running = claimed(store)
    assert (running.id, running.state, running.worker, running.claim, running.started) == (
        job.id, "running", "w1", 1, 1_000_010.0,
    )  # fmt: skip
    assert store.claim("w2", ["smoke"]) == []
    assert store.step(running, 3)
    assert store.job(job.id).step == 3
    clock.now += 5
    store.finish(running, VIDEO)
    done = store.job(job.id)
    assert (done.state, done.step, done.outcome, done.ended) == ("done", 4, VIDEO, 1_000_015.0)
    assert store.depth() == {"queued": 0, "running": 0}


def test_it_is_all_there_after_a_restart(store: JobStore, url: str) -> None:
    waiting, failing, done = submit(store, 3)
    store.fail(claimed(store), "no memory")
    assert store.job(waiting.id).state == "failed"
    store.stop(claimed(store))
    store.finish(claimed(store), VIDEO)
    store.measure("H100", "smoke", "fp16", {"peak_bytes": 3})
    before = store.jobs()
    store.close()
    again = JobStore(Database(url))
    try:
        assert again.jobs() == before
        assert {job.id: (job.state, job.reason) for job in again.jobs()} == {
            waiting.id: ("failed", "no memory"), failing.id: ("cancelled", ""), done.id: ("done", ""),
        }  # fmt: skip
        assert again.measured("H100", "smoke", "fp16") == [{"peak_bytes": 3}]
    finally:
        again.close()


def test_an_id_is_a_promise(store: JobStore) -> None:
    """Who did not hear the answer may ask again: nothing is made twice."""
    first = store.submit(order(7), owner="li", number="my-1")
    again = store.submit(replace(order(8), language="zh"), owner="li", number="my-1")
    assert again == first
    with pytest.raises(OtherJob, match="job my-1 is already there and asks for something else"):
        store.submit(order(prompt="a dog"), owner="li", number="my-1")
    with pytest.raises(OtherJob):
        store.submit(replace(order(7), negative="blurry"), owner="li", number="my-1")
    with pytest.raises(OtherJob):
        store.submit(order(7), owner="wang", number="my-1")
    store.finish(claimed(store), VIDEO)
    assert store.submit(order(7), owner="li", number="my-1").state == "done"


def test_the_queue_is_bounded(store: JobStore) -> None:
    for number in range(2):
        store.submit(order(number), limits=Limits(waiting=2))
    with pytest.raises(QueueFull, match="the queue is full: 2 are waiting") as caught:
        store.submit(order(3), limits=Limits(waiting=2))
    assert caught.value.waiting == 2
    running = claimed(store)
    store.submit(order(3), limits=Limits(waiting=2))  # what runs does not wait
    store.fail(running, "x")
    with pytest.raises(QueueFull):
        store.retry(running.id, limits=Limits(waiting=2))


def test_nobody_fills_it_alone(store: JobStore) -> None:
    limits = Limits(waiting=9, per_owner=2)
    for number in range(2):
        store.submit(order(number), owner="li", limits=limits)
    claimed(store)
    with pytest.raises(OwnerLimit, match="you have 2 videos under way"):
        store.submit(order(3), owner="li", limits=limits)
    assert store.submit(order(3), owner="wang", limits=limits).state == "queued"


def test_a_preview_is_there_while_the_job_is_made(store: JobStore) -> None:
    """Whatever its end is, nothing of it is left."""
    job = store.submit(order(), owner="li")
    assert (job.preview, store.preview_of(job.id)) == (0, None)
    ends: list[Callable[[Job], object]] = [
        store.give_back,
        lambda running: store.bury(running.worker),
        lambda running: store.bury(running.worker, "killed"),
        lambda running: (store.cancel(running.id), store.bury(running.worker)),
        lambda running: store.fail(running, "no memory"),
        store.stop,
        lambda running: store.finish(running, VIDEO),
    ]
    for end in ends:
        if store.job(job.id).state != "queued":
            store.retry(job.id)
        running = claimed(store)
        assert (running.preview, store.preview_of(job.id)) == (0, None)
        for step, image in ((1, b"first"), (3, b"\0second")):
            store.preview(running, step, image)
            assert (store.job(job.id).preview, store.preview_of(job.id, "li")) == (step, image)
        end(running)
        assert (store.job(job.id).preview, store.preview_of(job.id)) == (0, None)
        assert left(store) == 0
    assert store.job(job.id).state == "done"


def test_only_who_has_a_job_shows_how_far_it_is(store: JobStore) -> None:
    job, other = submit(store, 2)
    first = claimed(store, "w1")
    store.preview(first, 1, b"old")
    store.bury("w1", "cut off")
    second = claimed(store, "w2")
    store.preview(second, 2, b"new")
    third = claimed(store, "w3")
    assert third.id == other.id
    store.preview(third, 1, b"other")
    with pytest.raises(LostClaim):
        store.preview(first, 3, b"late")
    store.give_back(first)  # not its own any more: nothing happens
    assert (store.job(job.id).preview, store.preview_of(job.id)) == (2, b"new")
    store.finish(second, VIDEO)
    with pytest.raises(LostClaim):
        store.preview(second, 4, b"late")
    assert store.preview_of(other.id) == b"other"
    assert left(store) == 1
    with pytest.raises(UnknownJob):
        store.preview_of(other.id, "wang")


def left(store: JobStore) -> int:
    """How many previews are kept."""
    with store._database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM previews").scalar_one())


def test_others_jobs_are_not_there(store: JobStore) -> None:
    job = store.submit(order(), owner="li")
    doings: list[Callable[[str, str], object]] = [
        store.job, store.cancel, store.retry, store.delete, store.pin,
        lambda number, owner: store.move(number, 0, owner),
    ]  # fmt: skip
    for do in doings:
        with pytest.raises(UnknownJob, match=f"there is no job {job.id}"):
            do(job.id, "wang")
    assert store.job(job.id) == job == store.job(job.id, "li")
    assert [each.id for each in store.jobs(owner="wang")] == []
    with pytest.raises(UnknownJob, match="there is no job nothing"):
        store.job("nothing")


def test_cancelling(store: JobStore) -> None:
    first, second = submit(store, 2)
    running = claimed(store)
    assert store.cancel(second.id).state == "cancelled"
    assert store.claim("w2", ["smoke"]) == []
    assert store.cancel(first.id).state == "running"  # until its worker is at its next step
    assert store.step(running, 2) is False
    store.stop(running)
    assert store.job(first.id).state == "cancelled"
    done = store.submit(order())
    store.finish(claimed(store), VIDEO)
    assert store.cancel(done.id).state == "done"


def test_retry(store: JobStore) -> None:
    first, second = submit(store, 2)
    store.fail(claimed(store), "no memory")
    retried = store.retry(first.id)
    assert (retried.state, retried.reason, retried.ended, retried.step) == ("queued", "", None, 0)
    assert claimed(store).id == second.id  # it has lost its place
    assert claimed(store).id == first.id
    with pytest.raises(WrongState, match=f"job {first.id} is running"):
        store.retry(first.id)


def test_order_can_be_changed(store: JobStore) -> None:
    numbers = [job.id for job in submit(store, 4)]
    store.move(numbers[3], 0)
    store.move(numbers[0], 99)
    waiting = [job.id for job in store.jobs(states=["queued"])]
    assert waiting == [numbers[3], numbers[1], numbers[2], numbers[0]]
    assert [claimed(store).id for _ in numbers] == waiting
    with pytest.raises(WrongState):
        store.move(numbers[0], 0)


def test_jobs_are_listed_in_parts(store: JobStore, clock: Clock) -> None:
    numbers = [job.id for job in submit(store, 10, owner="li")]
    (other,) = submit(store, 1, owner="wang")
    for number in [*numbers[:6], other.id]:
        store.cancel(number)
        clock.now += number in numbers[2:4]  # some end at the same moment
    claimed(store)
    store.move(numbers[9], 0)
    everything = [job.id for job in store.jobs(owner="li")]
    assert set(everything) == set(numbers)
    for size in (1, 3, 10):
        found = [job.id for job in store.jobs(owner="li", most=size)]
        while part := [job.id for job in store.jobs(owner="li", most=size, after=found[-1])]:
            assert len(part) <= size
            found += part
        assert found == everything
    assert [job.id for job in store.jobs(after=numbers[0])] == [job.id for job in store.jobs()][
        [job.id for job in store.jobs()].index(numbers[0]) + 1 :
    ]
    for unknown in (other.id, "nothing"):
        with pytest.raises(UnknownJob):
            store.jobs(owner="li", after=unknown)


def test_the_mark_is_another_one_after_each_change_by_whomever(store: JobStore, url: str) -> None:
    other = JobStore(Database(url))
    try:
        marks = [store.mark()]
        assert store.mark() == marks[0]
        submit(store, 1)
        marks.append(store.mark())
        assert store.mark() == marks[1]
        job = claimed(other)
        marks.append(store.mark())
        other.step(job, 1)
        marks.append(store.mark())
        assert len(set(marks)) == 4
    finally:
        other.close()


def test_a_glance_shows_what_waits_and_runs_and_that_the_rest_has_changed(store: JobStore) -> None:
    first, second = submit(store, 2)
    running = claimed(store)
    store.beat(WorkerStatus("w1", "busy"))
    glances = [store.glance()]
    assert [(job.id, job.state) for job in glances[0].active] == [(first.id, "running"), (second.id, "queued")]
    assert [worker.name for worker in glances[0].workers] == ["w1"]
    store.measure("cpu", "smoke", "fp32", {})
    store.finish(running, Outcome("videos/x.mp4", 1, 1.0))
    glances.append(store.glance())
    store.pin(first.id)
    glances.append(store.glance())
    assert store.history() == {first.id: Ended("", "done", store.job(first.id).ended, True)}
    store.delete(first.id)
    glances.append(store.glance())
    assert len({glance.history for glance in glances}) == 4 - 1  # nothing has ended first and last
    assert [glance.measured > 0 for glance in glances] == [False, True, True, True]
    assert store.history() == {}


def test_deleting(store: JobStore) -> None:
    job = store.submit(order())
    with pytest.raises(WrongState):
        store.delete(job.id)
    running = claimed(store)
    with pytest.raises(WrongState):
        store.delete(job.id)
    assert store.uses(order().picture)
    store.finish(running, VIDEO)
    assert store.delete(job.id).outcome == VIDEO
    assert store.jobs() == []
    assert not store.uses(order().picture)


def test_the_disk_is_kept_free(store: JobStore, clock: Clock) -> None:
    """The oldest go first, for their age or for the room that they take; pinned ones stay."""
    made = []
    for job in submit(store, 4):
        store.finish(claimed(store), replace(VIDEO, bytes=100))
        made.append(job.id)
        clock.now += 100
    store.pin(made[0])
    assert store.overdue(age_s=None, most_bytes=None) == []
    assert [job.id for job in store.overdue(age_s=250, most_bytes=None)] == [made[1]]
    assert [job.id for job in store.overdue(age_s=None, most_bytes=250)] == [made[1], made[2]]
    assert [job.id for job in store.overdue(age_s=None, most_bytes=400)] == []
    store.pin(made[0], is_pinned=False)
    assert [job.id for job in store.overdue(age_s=None, most_bytes=250)] == made[:2]


def test_jobs_alike_are_claimed_together(store: JobStore) -> None:
    larger = replace(PRESET, width=128)
    wanted = [order(1), order(2, preset=larger), order(3), order(4), order(5, model="svd-xt"), order(6)]
    numbers = [store.submit(each, limits=WIDE).id for each in wanted]
    asked: list[str] = []

    def most(first: Job) -> int:
        asked.append(first.id)
        return 3

    together = store.claim("w1", ["smoke"], most)
    assert [job.id for job in together] == [numbers[0], numbers[2], numbers[3]]
    assert asked == [numbers[0]]
    assert [job.id for job in store.claim("w1", ["smoke"], most)] == [numbers[1]]
    assert [job.id for job in store.claim("w2", ["smoke", "svd-xt"], most)] == [numbers[4]]
    assert [job.id for job in store.claim("w2", ["smoke", "svd-xt"], most)] == [numbers[5]]


def test_a_claim_that_was_not_used_costs_nothing(store: JobStore) -> None:
    first, _ = submit(store, 2)
    job = claimed(store)
    store.give_back(job)
    again = claimed(store)
    assert (again.id, again.claim, again.deaths) == (first.id, 2, 0)
    with pytest.raises(LostClaim):
        store.step(job, 1)


def test_a_job_of_a_dead_worker_is_begun_once_more_and_then_has_failed(store: JobStore) -> None:
    job, other = submit(store, 2)
    store.beat(status("w1"))
    first = claimed(store, "w1")
    assert [(each.id, each.state, each.deaths) for each in store.bury("w1", "killed")] == [(job.id, "queued", 1)]
    assert store.workers() == []
    second = claimed(store, "w2")  # in its old place, before the other
    assert (second.id, second.claim) == (job.id, 2)
    # what the dead one still says, if it was only cut off, does not count
    for say in (
        lambda: store.step(first, 1),
        lambda: store.finish(first, VIDEO),
        lambda: store.fail(first, "x"),
        lambda: store.stop(first),
    ):
        with pytest.raises(LostClaim):
            say()
    assert store.step(second, 1)
    assert [(each.state, each.reason) for each in store.bury("w2", "killed")] == [("failed", "killed")]
    assert claimed(store, "w3").id == other.id


def test_a_worker_that_was_stopped_on_purpose_is_not_held_against_its_job(store: JobStore) -> None:
    store.submit(order())
    for claim in (1, 2, 3):
        assert claimed(store).claim == claim
        assert [job.state for job in store.bury("w1")] == ["queued"]
    assert store.jobs()[0].deaths == 0


def test_a_cancelled_job_of_a_dead_worker_is_cancelled(store: JobStore) -> None:
    job = store.submit(order())
    claimed(store)
    store.cancel(job.id)
    assert [each.state for each in store.bury("w1", "killed")] == ["cancelled"]


def test_workers_say_how_they_are_and_hear_what_to_load(store: JobStore) -> None:
    store.beat(status())
    store.beat(status(state="busy", reason="x"))
    (worker,) = store.workers()
    assert worker == status(state="busy", reason="x", beat=2)
    assert store.wish_of("w1") == store.wish_of("nobody") == ""
    store.beat(status("w2"))
    store.wish("svd-xt")
    assert (store.wish_of("w1"), store.wish_of("w2")) == ("svd-xt", "svd-xt")
    store.fulfil("w1", "svd-xt")
    assert (store.wish_of("w1"), store.wish_of("w2")) == ("", "svd-xt")
    store.wish("smoke", "w2")
    store.fulfil("w2", "svd-xt")  # of a wish that has been replaced since
    store.beat(status("w2"))
    assert store.wish_of("w2") == "smoke"


def test_the_watchman_trusts_no_clock_but_his_own(store: JobStore, clock: Clock) -> None:
    own = Clock()
    watchman = Watchman(store, 10, own)

    def looks(seconds: int) -> list[str]:
        """What he finds in that time, looking every two seconds."""
        found = []
        for _ in range(seconds // 2):
            own.now += 2
            found += [job.id for job in watchman.look()]
        return found

    job = store.submit(order())
    store.beat(status("w1"))
    claimed(store, "w1")
    assert watchman.look() == []
    clock.now += 1e9  # all other clocks jump
    assert looks(8) == []
    store.beat(status("w1"))
    assert looks(8) == []  # it has beaten since
    clock.now -= 2e9
    assert looks(6) == [job.id]
    assert store.workers() == []
    # one that lives, and was only cut off, is there again with its next beat
    store.beat(status("w1"))
    assert [worker.name for worker in store.workers()] == ["w1"]


def test_a_watchman_who_could_not_look_blames_nobody(store: JobStore) -> None:
    """While the database is away, or the machine sleeps, nobody can beat."""
    own = Clock()
    watchman = Watchman(store, 10, own)
    store.beat(status("w1"))
    watchman.look()
    own.now += 60
    assert watchman.look() == []
    assert len(store.workers()) == 1
    for _ in range(3):  # but one that is dead is found nevertheless
        own.now += 4
        watchman.look()
    assert store.workers() == []


def test_an_answer_that_was_lost_is_no_lost_claim(store: JobStore) -> None:
    """A worker that did not hear that its job has ended says it again."""
    for _ in range(3):
        store.submit(order(), limits=WIDE)
    done, failed, other = (claimed(store) for _ in range(3))
    for _ in range(2):
        store.finish(done, VIDEO)
        store.fail(failed, "x")
    assert store.totals().ended == {"done": 1, "failed": 1, "cancelled": 0}
    with pytest.raises(LostClaim):
        store.finish(failed, VIDEO)
    store.bury("w1")
    with pytest.raises(LostClaim):
        store.finish(other, VIDEO)


def test_a_pinned_job_is_not_swept_away(store: JobStore) -> None:
    job = store.submit(order())
    store.finish(claimed(store), VIDEO)
    store.pin(job.id)
    with pytest.raises(WrongState):
        store.delete(job.id, unless_pinned=True)
    assert store.delete(job.id).id == job.id


def test_what_another_version_says_of_its_workers_is_passed_over(store: JobStore) -> None:
    store.beat(status("w1"))
    with store._database.write() as connection:
        row = connection.exec_driver_sql("SELECT status FROM workers").scalar()
        told = {name: value for name, value in json.loads(str(row)).items() if not name.startswith("speed")}
        text = json.dumps({**told, "mood": "good"}).replace("'", "''")
        connection.exec_driver_sql(f"UPDATE workers SET status = '{text}'")
    assert store.workers() == [status("w1", beat=1)], "what an older one does not say is what there is without it"


def test_everything_at_once_loses_nothing(store: JobStore) -> None:
    """Users and workers who do all that can be done, in each other's way."""
    ids: list[str] = []

    def ask(number: int) -> None:
        for count in range(15):
            job = store.submit(order(count), limits=Limits(waiting=1000), number=f"{number}-{count}")
            ids.append(job.id)
            chosen = ids[(number * 7 + count * 3) % len(ids)]
            with contextlib.suppress(WrongState, UnknownJob):
                if count % 3:
                    store.cancel(chosen)
                else:
                    store.retry(chosen, limits=Limits(waiting=1000))
            with contextlib.suppress(WrongState, UnknownJob):
                store.move(chosen, count % 4)

    def work_on(number: int) -> None:
        name = f"w{number}"
        for count in range(60):
            jobs = store.claim(name, ["smoke"], lambda _: 3)
            store.beat(status(name))
            if count % 9 == 8:
                store.bury(name, "killed")
            for job in jobs:
                with contextlib.suppress(LostClaim):
                    if store.step(job, 1):
                        store.preview(job, 1, name.encode())
                        store.finish(job, VIDEO)
                    else:
                        store.stop(job)

    with ThreadPoolExecutor(6) as pool:
        for running in [*(pool.submit(ask, n) for n in range(3)), *(pool.submit(work_on, n) for n in range(3))]:
            running.result()
    for name in ("w0", "w1", "w2"):
        store.bury(name)
    while claim := store.claim("last", ["smoke"]):
        store.finish(claim[0], VIDEO)
    found = store.jobs()
    assert sorted(job.id for job in found) == sorted(ids)
    assert {job.state for job in found} <= {"done", "failed", "cancelled"}
    assert left(store) == 0


def test_a_file_that_is_damaged_while_it_is_used_is_said(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    store = JobStore(Database(f"sqlite:///{file}"))
    submit(store, 100)
    store.close()  # closes its connections: the next question opens the file again
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * 100_000)
    with pytest.raises(Damaged):
        store.jobs()
    store.close()


def test_a_worker_that_beats_in_the_last_moment_lives(store: JobStore) -> None:
    store.beat(status("w1"))
    (seen,) = store.workers()
    store.submit(order())
    running = claimed(store, "w1")
    store.beat(status("w1"))
    assert store.bury("w1", "x", beat=seen.beat) == []
    assert store.step(running, 1)


def test_many_at_once_get_no_more_than_there_is_room_for(url: str, store: JobStore) -> None:
    def ask(number: int) -> str:
        try:
            return store.submit(order(number), limits=Limits(waiting=5)).id
        except QueueFull:
            return ""

    with ThreadPoolExecutor(16) as pool:
        numbers = list(filter(None, pool.map(ask, range(50))))
    assert len(numbers) == len(set(numbers)) == 5
    assert sorted(job.id for job in store.jobs()) == sorted(numbers)


def test_many_workers_get_each_job_once(url: str, store: JobStore) -> None:
    numbers = {job.id for job in submit(store, 40)}
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(3) as pool:
        shares = pool.map(work, [(url, f"w{number}") for number in range(3)])
    assert sorted(number for share in shares for number in share) == sorted(numbers)
    assert {job.state for job in store.jobs()} == {"done"}


def work(told: tuple[str, str]) -> list[str]:
    """Claim and finish until nothing is left, two at a time where there are two."""
    store = JobStore(Database(told[0]))
    done = []
    while claim := store.claim(told[1], ["smoke"], lambda _: 2):
        for job in claim:
            store.step(job, 1)
            store.finish(job, VIDEO)
            done.append(job.id)
    store.close()
    return done


def test_only_the_newest_measurements_are_kept(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.store.MEASURED", 3)
    store.measure("L20", "smoke", "fp16", {"seconds": 0})
    for seconds in range(5):
        store.measure("H100", "smoke", "fp16", {"seconds": seconds})
    assert store.measured("H100", "smoke", "fp16") == [{"seconds": seconds} for seconds in (2, 3, 4)]
    assert store.measured("L20", "smoke", "fp16") == [{"seconds": 0}]
    assert store.measured("H100", "smoke", "fp32") == []


def test_a_store_of_a_later_version_is_left_alone(url: str, store: JobStore) -> None:
    store.submit(order())
    with store._database.write() as connection:
        connection.exec_driver_sql("UPDATE about SET version = 3")
        connection.exec_driver_sql("DROP TABLE measurements")
    with pytest.raises(StoreUnavailable, match=r"made by another version of the app \(store 3, this one has 2\)"):
        Database(url)
    assert len(store.jobs()) == 1
    assert "measurements" not in schema(store)


def test_a_store_of_the_first_version_becomes_one_of_ours(url: str, store: JobStore) -> None:
    """With what is in it, also while programs of that version are at work with it."""
    fresh, before = schema(store), submit(store, 2)
    running = claimed(store)
    store.close()
    make_first(url)
    with ThreadPoolExecutor(4) as pool:  # of several that begin at once, one does it
        for opened in pool.map(Database, [url] * 4):
            opened.close()
    again = JobStore(Database(url))
    try:
        assert schema(again) == fresh
        assert again.jobs() == [again.job(running.id), before[1]]
        again.preview(running, 2, b"shown")
        assert again.job(running.id).preview == 2
        with again._database.write() as connection:  # as a program of version 1 hands in a job
            stored = json.dumps({key: value for key, value in asdict(order()).items() if key != "negative"})
            connection.exec_driver_sql(
                "INSERT INTO jobs (id, owner, model, lot, request, picture, state, place, step, claim, deaths, worker, "
                "is_unwanted, is_pinned, reason, created) VALUES ('old', '', 'smoke', '', '" + stored + "', '', "
                "'queued', 9, 0, 0, 0, '', false, false, '', 1.0)"
            )
        assert (again.job("old").order, again.job("old").preview) == (order(), 0)
    finally:
        again.close()


def test_a_change_that_does_not_succeed_leaves_the_earlier_version(
    url: str, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(store, 2)
    store.close()
    make_first(url)
    changes = {1: (*tables.CHANGES[1], "ALTER TABLE nothing ADD COLUMN x INTEGER")}
    with monkeypatch.context() as changed:
        changed.setattr(tables, "CHANGES", changes)
        with pytest.raises(StoreUnavailable, match="nothing"):
            Database(url)
    again = JobStore(Database(url))
    try:
        assert len(again.jobs()) == 2
    finally:
        again.close()


def make_first(url: str) -> None:
    """Let a store be as version 1 made it."""
    database = Database(url)
    with database.write() as connection:
        for statement in (
            "DROP TABLE previews",
            "ALTER TABLE jobs DROP COLUMN preview",
            "UPDATE about SET version = 1",
        ):
            connection.exec_driver_sql(statement)
    database.close()


def schema(store: JobStore) -> dict[str, list[tuple[str, str, bool, object]]]:
    """All tables with their columns, in no order: name, type, whether it may be empty, and what it is then."""
    with store._database.read() as connection:
        found = inspect(connection)
        return {
            table: sorted(
                (each["name"], str(each["type"]), each["nullable"], each["default"])
                for each in found.get_columns(table)
            )
            for table in found.get_table_names()
        }


def test_ids_sort_by_time_and_differ() -> None:
    numbers = [new_id() for _ in range(100)]
    assert len(set(numbers)) == 100
    assert all(len(number) == len("20261127-201500-01234567") for number in numbers)


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "sqlite", "nothing://x", "postgresql+asyncpg://h/d", "jobs.db", "sqlite://"]
)
def test_other_databases_are_wrong_use(url: str) -> None:
    with pytest.raises(UsageError, match="must be sqlite:///FILE or postgresql://USER@HOST/DATABASE"):
        Database(url)


def test_a_password_is_never_shown() -> None:
    for password in ("geheim", "ge/heim", "ge'heim", "ge%40heim"):
        with pytest.raises(StoreUnavailable) as caught:
            Database(f"postgresql://li:{password}@127.0.0.1:1/db")
        assert "heim" not in str(caught.value)
        assert "127.0.0.1:1/db cannot be used: " in str(caught.value)


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_damaged_file_is_kept_and_said(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "jobs.sqlite3"
    store = JobStore(Database(f"sqlite:///{file}"))
    submit(store, 100)
    store.close()
    data = bytearray(file.read_bytes())
    if damage == "header":
        data[:32] = bytes(32)
    elif damage == "middle":
        data[5000:20000] = b"\xff" * 15000
    else:
        data = bytearray(b"not a database at all, but text" * 100)
    file.write_bytes(data)
    with pytest.raises(Damaged, match="cannot be used: "):
        Database(f"sqlite:///{file}")
    again = JobStore(Database(f"sqlite:///{file}", heals=True))
    try:
        assert again.jobs() == []
        again.submit(order())
    finally:
        again.close()
    (kept,) = tmp_path.glob("jobs.sqlite3.damaged-*")
    assert kept.read_bytes() == data
    assert f"jobs.sqlite3 is damaged; kept as {kept.name}, and begun anew" in capsys.readouterr().err


def test_a_locked_file_is_waited_for_and_then_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.database.BUSY_S", 0.2)
    url = f"sqlite:///{tmp_path}/jobs.sqlite3"
    store = JobStore(Database(url))
    other = sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreUnavailable, match="another program holds its lock for longer than 0 s"):
            store.submit(order())
        with pytest.raises(StoreUnavailable):
            Database(url)
        other.execute("ROLLBACK")
        assert store.submit(order()).state == "queued"
    finally:
        other.close()
        store.close()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="File exists"):
        Database(f"sqlite:///{tmp_path}/file/jobs.sqlite3")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_job_that_comes_back_while_it_is_moved_is_moved(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker dies just before it is looked at; in SQLite no two write at a time."""
    job = store.submit(order())
    claimed(store)
    waiting = store.submit(order(8))
    find = jobs_store._find

    def found_late(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(jobs_store, "_find", find)
        store.bury("w1")
        return find(*arguments, **named)

    monkeypatch.setattr(jobs_store, "_find", found_late)
    assert store.move(job.id, 1).state == "queued"
    assert [claimed(store).id, claimed(store).id] == [waiting.id, job.id]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_database_that_is_restarted_is_found_again(store: JobStore, url: str) -> None:
    job = store.submit(order())
    running = claimed(store)
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailable):
            store.step(running, 1)
    finally:
        postgres.start()
    assert store.step(running, 2)
    store.finish(running, VIDEO)
    assert store.job(job.id).state == "done"


def test_nothing_is_left_in_the_journal_after_a_kill(tmp_path: Path) -> None:
    """What was written is there for whoever opens the file next, as it was left."""
    store = JobStore(Database(f"sqlite:///{tmp_path}/jobs.sqlite3"))
    job = store.submit(order())
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tmp_path.glob("jobs.sqlite3*"):  # as after a power cut: the journal has not been put into the file
        shutil.copy(file, copy)
    store.close()
    again = JobStore(Database(f"sqlite:///{copy}/jobs.sqlite3"))
    assert again.jobs() == [job]
    again.close()
