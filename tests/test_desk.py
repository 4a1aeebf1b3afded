"""app.desk: what is kept and what is not; the rest is asked over HTTP, in test_api"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from app import desk as desks
from app.cards import Holder, Space
from app.desk import Desk, Quota, TooLarge, Wanted
from app.jobs.base import Limits, Outcome, OwnerLimit, QueueFull, WorkerStatus
from app.jobs.database import Database
from app.jobs.store import JobStore
from app.media import Media, picture_key
from app.memory import Fit, Measurement, Refusal
from jingxiang import models as catalog

CATALOG = catalog.load(Path(__file__).resolve().parent.parent / "app" / "models.toml")
GIB = 1 << 30
# A card with a model loaded, beside a program of somebody else.
CARD = Space(True, 24 * GIB, 4 * GIB, (Holder(4711, "python", 12 * GIB), Holder(1, "app", 6 * GIB)))
WORKER = WorkerStatus("w1", "ready", "i2vgen-xl", ("i2vgen-xl", "smoke"), "RTX", "fp16", CARD, 6 * GIB, 1)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> Iterator[Desk]:
    store = JobStore(Database(f"sqlite:///{tmp_path}/jobs.sqlite3"), clock)
    media = Media(str(tmp_path / "media"))
    yield Desk(store, media, CATALOG, "smoke", crew=None, limits=Limits(2), quota=Quota(1000, 250))
    store.close()


def wanted(shade: int = 0, **changes: object) -> Wanted:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(picture, "PNG")
    return replace(Wanted(picture.getvalue(), "a.png", "a cat", preset="fast", seed=7), **changes)  # type: ignore[arg-type]


def made(desk: Desk, shade: int, size: int = 100) -> str:
    """The id of a job that is done, with its files."""
    number = desk.submit(wanted(shade))[0].id
    (job,) = desk.store.claim("w1", ["smoke"])
    for end in ("mp4", "json"):
        desk.media.put(f"videos/{number}.{end}", b"x")
    desk.store.finish(job, Outcome(f"videos/{number}.mp4", size, 4.0))
    return number


def test_what_is_too_old_or_too_much_goes_with_its_files(
    desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = []
    for shade in range(4):
        numbers.append(made(desk, shade))
        clock.now += 10
    desk.store.pin(numbers[0])
    pictures = [picture_key(desk.store.job(number).order.picture) for number in numbers]
    assert desk.sweep() == 2  # of 400 bytes, 250 may stay, and the first one is pinned
    assert [job.id for job in desk.store.jobs()] == [numbers[3], numbers[0]]
    left = [f"videos/{numbers[index]}.{end}" for index in (0, 3) for end in ("json", "mp4")]
    assert sorted(desk.media.keys("videos")) == sorted(left)
    assert len(desk.media.keys("pictures")) == 4  # they came just now: their jobs might not be in the store yet
    monkeypatch.setattr(desks, "GRACE_S", -1.0)
    clock.now += 2000
    assert desk.sweep() == 1
    assert desk.media.keys("pictures") == [pictures[0]]


def test_a_clock_that_jumps_deletes_nothing_for_its_age(
    desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(desk, 0)
    clock.now += 2000  # which is too old
    now = time.time()
    monkeypatch.setattr("app.desk.time.time", lambda: now + 31 * 24 * 3600)
    assert desk.sweep() == 0
    monkeypatch.undo()
    assert desk.sweep() == 1


def test_what_a_dead_worker_has_left_goes_and_what_is_nobody_s_stays(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = made(desk, 0)
    for key in (f"videos/{number}.2.mp4", f"videos/{number}.2.json", "videos/somebody-s.mp4"):
        desk.media.put(key, b"x")
    desk.sweep()
    assert len(desk.media.keys("videos")) == 5
    monkeypatch.setattr(desks, "GRACE_S", -1.0)
    desk.sweep()
    assert sorted(desk.media.keys("videos")) == [
        f"videos/{number}.json",
        f"videos/{number}.mp4",
        "videos/somebody-s.mp4",
    ]


def test_only_workers_that_have_a_model_are_told_to_load_it(desk: Desk) -> None:
    desk.store.beat(WORKER)
    desk.store.beat(replace(WORKER, name="w2", models=("smoke",)))
    desk.use("i2vgen-xl")
    assert (desk.store.wish_of("w1"), desk.store.wish_of("w2"), desk.model) == ("i2vgen-xl", "", "i2vgen-xl")


def test_a_picture_whose_job_was_refused_goes_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_limits", Limits(10, per_owner=1))
    desk.submit(wanted(1), owner="li")
    with pytest.raises(OwnerLimit):
        desk.submit(wanted(2), owner="li")
    assert len(desk.media.keys("pictures")) == 2
    monkeypatch.setattr(desks, "GRACE_S", -1.0)
    desk.sweep()
    assert len(desk.media.keys("pictures")) == 1


def test_a_full_queue_refuses_before_anything_is_unpacked(desk: Desk) -> None:
    for shade in range(2):
        desk.submit(wanted(shade))
    with pytest.raises(QueueFull):
        desk.submit(wanted(image=b"not even a picture"))


def test_a_full_queue_says_when_there_is_room(desk: Desk) -> None:
    desk.store.beat(replace(WORKER, gpu="cpu", dtype="fp32", space=None, held_bytes=0))
    preset = CATALOG.model("smoke").preset("fast")
    run = Measurement("cpu", "smoke", "fp32", "full", 64, 64, 8, 1, preset.steps, 1, 8.0)
    desk.store.measure("cpu", "smoke", "fp32", vars(run))
    running = desk.submit(wanted())[0]
    (job,) = desk.store.claim("w1", ["smoke"])
    desk.store.step(job, preset.steps // 2)
    first, second = (desk.submit(wanted())[0] for _ in range(2))
    with pytest.raises(QueueFull, match="the queue is full: 2 are waiting; a place is free in about 4 s"):
        desk.submit(wanted())
    outlooks = [desk.outlook(desk.store.job(each.id)) for each in (running, first, second)]
    assert [each.position for each in outlooks] == [0, 1, 2]
    assert [each.wait_s for each in outlooks] == [None, 4.0, 12.0]
    assert [each.left_s for each in outlooks] == [4.0, None, None]


def test_what_does_not_fit_is_refused_before_it_waits(desk: Desk) -> None:
    desk.store.beat(WORKER)
    spec = CATALOG.model("i2vgen-xl")
    assert desk.recommended(spec) == "24gb"
    large = wanted(model="i2vgen-xl", preset="40gb")
    refusal = desk.fit(spec, spec.preset("40gb"))
    assert isinstance(refusal, Refusal)
    with pytest.raises(TooLarge) as caught:
        desk.submit(large)
    assert "not enough memory: it needs " in caught.value.message
    assert "process 4711 python holds 12.9 GB" in caught.value.message
    assert "app holds" not in caught.value.message
    assert desk.store.jobs() == []
    assert refusal.nearest is not None
    assert desk.fit(spec, refusal.nearest[0]) is not None
    # the memory that the other program had is free now
    freed = replace(CARD, free_bytes=18 * GIB, holders=())
    desk.store.beat(replace(WORKER, space=freed))
    assert desk.submit(large)[0].state == "queued"


def test_whoever_has_room_is_asked(desk: Desk) -> None:
    desk.store.beat(WORKER)
    desk.store.beat(replace(WORKER, name="w2", space=Space(True, 80 * GIB, 70 * GIB)))
    spec = CATALOG.model("i2vgen-xl")
    assert not isinstance(desk.fit(spec, spec.preset("40gb")), Refusal)
    assert desk.recommended(spec) == "40gb"


def test_what_fits_is_known_of_each_size_and_preset_from_one_reading(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.store.beat(WORKER)
    spec = CATALOG.model("i2vgen-xl")
    large = spec.preset("40gb")
    run = Measurement("RTX", "i2vgen-xl", "fp16", "full", 448, 256, 8, 1, 30, 6 * GIB, 12.0)
    desk.store.measure("RTX", "i2vgen-xl", "fp16", vars(run))
    workers, measured = Mock(wraps=desk.store.workers), Mock(wraps=desk.store.measured)
    monkeypatch.setattr(desk.store, "workers", workers)
    monkeypatch.setattr(desk.store, "measured", measured)
    sizes = {choice.title: choice for choice in desk.sizes(spec, large)}
    assert (workers.call_count, measured.call_count) == (1, 1)
    assert list(sizes) == ["256p", "512p", "768p", "1024p"]
    assert [(choice.preset.frames, choice.preset.steps) for choice in sizes.values()] == [(32, 80)] * 4
    assert sizes["1024p"].fit == desk.fit(spec, replace(large, width=1280, height=720))
    assert isinstance(sizes["1024p"].fit, Refusal)
    assert isinstance(sizes["256p"].fit, Fit)
    presets = {choice.title: choice for choice in desk.presets(spec)}
    assert {title: choice.preset for title, choice in presets.items()} == spec.presets
    assert presets["fast"].seconds == desk.seconds(spec, spec.preset("fast")) == pytest.approx(12.0)
    assert presets["40gb"].fit == sizes["1024p"].fit


def test_before_the_first_worker_nobody_knows_what_fits(desk: Desk) -> None:
    spec = CATALOG.model("smoke")
    assert [(choice.fit, choice.seconds) for choice in desk.presets(spec)] == [(None, None)] * 2
