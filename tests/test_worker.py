"""app.worker: a worker in this process, with the smoke model and a real store"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from app import adapters, generation, logs, media, memory, picture, provenance, worker
from app.adapters import previews
from app.adapters.base import BrokenOutput, Diffusion, Look, OnStep
from app.artifacts import Shelf
from app.generation import Order
from app.jobs.base import Job, Limits, StoreUnavailable, WorkerStatus
from app.jobs.database import Database
from app.jobs.store import JobStore
from app.media import Media, picture_key
from app.texts import speaking
from app.worker import Control, Duty, Worker
from jingxiang import models as catalog
from tests.peers import tiny_models
from tests.peers.app import wait_for

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROOT = Path(__file__).resolve().parent.parent
CATALOG = catalog.load(ROOT / "app" / "models.toml")
WIDE = Limits(waiting=100)


class Office:
    """A store, media and the orders that go there."""

    def __init__(self, folder: Path, photo: Path) -> None:
        self.store = JobStore(Database(f"sqlite:///{folder}/jobs.sqlite3"))
        self.media = Media(str(folder / "media"))
        shown = picture.normalized(photo.read_bytes(), photo.name)
        self.picture = shown.sha256
        self.media.put(picture_key(shown.sha256), shown.png)

    def order(self, **changes: Any) -> Order:
        values: dict[str, Any] = {"picture": self.picture, "prompt": "a cat", "preset": "fast", "seed": 7} | changes
        spec = CATALOG.model(values.pop("model", "smoke"))
        return generation.order(spec, **values)

    def submit(self, **changes: Any) -> str:
        return self.store.submit(self.order(**changes), limits=WIDE).id

    def job(self, number: str) -> Job:
        return self.store.job(number)

    def status(self) -> WorkerStatus:
        """Of the only worker, once it has said something."""
        wait_for(lambda: self.store.workers() != [])
        return self.store.workers()[0]

    def state(self, number: str) -> str:
        return self.job(number).state

    def ended(self, number: str) -> Job:
        wait_for(lambda: self.state(number) in ("done", "failed", "cancelled"))
        return self.job(number)


@pytest.fixture
def office(tmp_path: Path, photo: Path) -> Iterator[Office]:
    opened = Office(tmp_path, photo)
    yield opened
    opened.store.close()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("POLL_S", 0.02), ("PAUSE_S", 0.02), ("BEAT_S", 0.05)):
        monkeypatch.setattr(worker, name, seconds)


@contextmanager
def working(office: Office, models: Path, **changes: Any) -> Iterator[Worker]:
    """A worker that runs in a thread, and ends as one that is told to."""
    duty = replace(Duty("w1", "smoke", models, Shelf(models / "artifacts"), most=1), **changes)
    employed = Worker(office.store, office.media, CATALOG, duty, Control())
    thread = threading.Thread(target=employed.run)
    thread.start()
    try:
        yield employed
    finally:
        employed.control.drain()
        thread.join(60)
        assert not thread.is_alive()


class Gate:
    """Holds every run after its first step until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        generate = Diffusion.generate

        def gated(model: Diffusion, batch: Any, on_step: OnStep, *rest: Any, **more: Any) -> Any:
            def step(done: int, of: int, look: Look) -> None:
                on_step(done, of, look)
                self.reached.set()
                assert self.opened.wait(60)

            return generate(model, batch, step, *rest, **more)

        monkeypatch.setattr(Diffusion, "generate", gated)


def test_a_job_is_made_and_kept(office: Office, models: Path) -> None:
    number = office.submit()
    with working(office, models) as employed:
        job = office.ended(number)
        wait_for(lambda: office.status().state == "ready")
        (status,) = office.store.workers()
        assert (status.name, status.model, status.models, status.reason) == ("w1", "smoke", ("smoke",), "")
        wait_for(lambda: office.status().beat > status.beat)
        assert employed.control.is_draining is False
    assert (job.state, job.step, job.reason, job.worker) == ("done", 4, "", "w1")
    assert job.outcome is not None
    file = office.media.file(job.outcome.video)
    assert file is not None
    assert job.outcome.bytes == file.stat().st_size > 1000
    assert job.outcome.seconds > 0
    with av.open(str(file)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8
    assert office.store.workers() == []  # it has said that it goes


def test_equal_orders_give_equal_bytes_and_other_seeds_others(office: Office, models: Path) -> None:
    numbers = [office.submit(seed=seed) for seed in (7, 7, 8)]
    with working(office, models):
        videos = [office.ended(number).outcome for number in numbers]
    same, again, other = (office.media.get(video.video) for video in videos if video)
    assert same == again != other


def test_what_should_not_be_in_it_changes_the_video_and_is_written_into_it(office: Office, models: Path) -> None:
    numbers = [office.submit(negative=negative) for negative in ("", "blurry")]
    with working(office, models):
        outcomes = [office.ended(number).outcome for number in numbers]
    (without, _), (other, told) = (read(office, outcome.video) for outcome in outcomes if outcome)
    assert without != other
    assert told is not None
    assert told.settings["negative_prompt"] == "blurry"


def read(office: Office, key: str) -> tuple[bytes, provenance.Provenance | None]:
    """The frames of a video, and what it says of itself."""
    file = office.media.file(key)
    assert file is not None
    with av.open(str(file)) as container:
        frames = [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]
    return b"".join(frames), provenance.read(file)


def test_what_users_have_written_is_not_in_the_log(
    office: Office, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(model: Diffusion, batch: Any, *_: Any) -> Any:
        raise ValueError(f"cannot read {batch[0].prompt!r} without {batch[0].negative!r}")

    monkeypatch.setattr(Diffusion, "generate", failing)
    logs.start(tmp_path, "worker")
    try:
        with working(office, models):
            office.ended(office.submit(prompt="my cat's name", negative="my dog's name"))
    finally:
        logs.stop()
    text = (tmp_path / "logs" / "worker.jsonl").read_text()
    assert "cannot read" in text
    assert "cat" not in text
    assert "dog" not in text


def test_what_of_the_prompt_was_not_read_is_kept(office: Office, models: Path) -> None:
    number = office.submit(prompt="x" * 80)
    chinese = office.submit(prompt="一只猫 🐈 转头")
    with working(office, models):
        outcome = office.ended(number).outcome
        assert outcome is not None
        assert outcome.unread == "x" * 5
        assert office.ended(chinese).state == "done"


def test_a_running_job_is_cancelled_within_a_step(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    number, after = office.submit(), office.submit(seed=8)
    with working(office, models):
        assert gate.reached.wait(60)
        office.store.cancel(number)
        assert office.state(number) == "running"
        gate.opened.set()
        job = office.ended(number)
        assert (job.state, job.step, job.outcome) == ("cancelled", 2, None)
        assert office.ended(after).state == "done"


def test_how_far_a_job_is_can_be_seen_while_it_runs(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    numbers = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models, most=2):
        assert gate.reached.wait(60)
        shown = [office.store.preview_of(number) for number in numbers]
        assert [office.job(number).preview for number in numbers] == [1, 1]
        for image in shown:
            assert image is not None
            with Image.open(io.BytesIO(image)) as opened:
                assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (8, 8))
                assert len(opened.getcolors() or ()) > 10
        assert shown[0] != shown[1]
        gate.opened.set()
        jobs = [office.ended(number) for number in numbers]
    assert [(job.state, job.preview, office.store.preview_of(job.id)) for job in jobs] == [("done", 0, None)] * 2


@pytest.mark.parametrize(("seconds", "steps"), [(3600.0, [1]), (0.0, [1, 2, 3, 4])])
def test_previews_are_made_no_more_often_than_is_worth_it(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: list[int]
) -> None:
    kept: list[tuple[str, int]] = []
    preview = office.store.preview

    def noted(job: Job, step: int, image: bytes) -> None:
        kept.append((job.id, step))
        preview(job, step, image)

    monkeypatch.setattr(office.store, "preview", noted)
    monkeypatch.setattr(worker, "PREVIEW_S", seconds)
    numbers = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models):
        for number in numbers:
            assert office.ended(number).state == "done"
    assert kept == [(number, step) for number in numbers for step in steps]


def test_what_is_wrong_with_a_preview_is_not_the_end_of_a_video(
    office: Office, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PREVIEW_S", 0.0)
    monkeypatch.setattr(previews, "picture", lambda *_: 1 / 0)
    logs.start(tmp_path, "worker")
    try:
        with working(office, models):
            assert office.ended(office.submit()).state == "done"
            monkeypatch.setattr(previews, "picture", lambda *_: None)  # as of numbers that are none
            assert office.ended(office.submit()).state == "done"
    finally:
        logs.stop()
    assert [entry.fields["error"] for entry in logs.read(tmp_path) if entry.event == logs.TROUBLE] == [
        "ZeroDivisionError"
    ] * 4


def test_a_job_that_is_not_wanted_any_more_is_not_shown(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PREVIEW_S", 0.0)
    gate = Gate(monkeypatch)
    number = office.submit()
    with working(office, models):
        assert gate.reached.wait(60)
        office.store.cancel(number)
        gate.opened.set()
        job = office.ended(number)
    assert (job.state, job.step, job.preview, office.store.preview_of(number)) == ("cancelled", 2, 0, None)


def test_like_jobs_are_made_together_and_each_as_if_alone(office: Office, models: Path) -> None:
    seeds = [1, 2, 3]
    alone = [office.submit(seed=seed) for seed in seeds]
    with working(office, models):
        singles = [office.ended(number).outcome for number in alone]
    together = [office.submit(seed=seed) for seed in seeds]
    other = office.submit(seed=4, preset="standard")
    with working(office, models, most=4):
        outcomes = [office.ended(number).outcome for number in together]
        last = office.ended(other).outcome
    assert [outcome.batch for outcome in outcomes if outcome] == [3, 3, 3]
    assert last is not None
    assert last.batch == 1
    for single, outcome in zip(singles, outcomes, strict=True):
        assert single is not None
        assert outcome is not None
        assert difference(office.media.get(single.video), office.media.get(outcome.video)) < 2 / 255


def test_a_worker_takes_no_more_than_its_share(office: Office, models: Path) -> None:
    """Five wait, and another worker could do some of them."""
    numbers = [office.submit(seed=seed) for seed in range(5)]
    other = WorkerStatus("w2", "ready", "smoke", ("smoke",))
    office.store.beat(other)
    with working(office, models, most=4):
        batches = [outcome.batch for number in numbers if (outcome := office.ended(number).outcome)]
    assert max(batches) == 3


def difference(first: bytes, second: bytes) -> float:
    """The mean one of two videos' pixels, from 0 to 1."""
    import numpy as np

    decoded = []
    for data in (first, second):
        with av.open(io.BytesIO(data)) as container:
            decoded.append(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
    return float(np.abs(decoded[0].astype(float) - decoded[1]).mean() / 255)


def test_one_of_several_that_are_made_together_is_cancelled_alone(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    numbers = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models, most=2):
        assert gate.reached.wait(60)
        office.store.cancel(numbers[0])
        gate.opened.set()
        assert office.ended(numbers[1]).state == "done"
        assert office.ended(numbers[0]).state == "cancelled"


def test_what_goes_wrong_is_said_in_the_language_of_the_one_who_asked(office: Office, models: Path) -> None:
    with speaking("zh"):
        lost = office.store.submit(replace(office.order(), picture="00" * 32)).id
    number = office.submit()
    with working(office, models):
        assert office.ended(lost).reason == f"pictures/{'00' * 32}.png 已不存在"
        assert office.ended(number).state == "done"


def test_a_broken_video_is_one_job_s_end(office: Office, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = Diffusion.generate

    def first_is_black(model: Diffusion, *rest: Any, **more: Any) -> Any:
        run = generate(model, *rest, **more)
        return replace(run, made=[BrokenOutput("all black"), *run.made[1:]])

    monkeypatch.setattr(Diffusion, "generate", first_is_black)
    numbers = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models, most=2):
        assert "the model gave no picture (all black)" in office.ended(numbers[0]).reason
        assert office.ended(numbers[1]).state == "done"


def test_any_exception_is_the_job_s_and_not_the_worker_s(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate, fails = Diffusion.generate, [True]

    def failing(model: Diffusion, *rest: Any, **more: Any) -> Any:
        if fails.pop() if fails else False:
            raise ZeroDivisionError("by nothing")
        return generate(model, *rest, **more)

    monkeypatch.setattr(Diffusion, "generate", failing)
    numbers = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models):
        assert office.ended(numbers[0]).reason == "ZeroDivisionError: by nothing"
        assert office.ended(numbers[1]).state == "done"
    assert "ZeroDivisionError: by nothing" in capsys.readouterr().err


def test_the_model_follows_the_jobs(office: Office, tmp_path: Path, models: Path) -> None:
    """Whoever's job is first gets its model; the old one is gone before the new one comes."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "smoke").symlink_to(models / "smoke")
    tiny_models.svd(folder / "svd-xt")
    settings = {"width": 64, "height": 64, "frames": 4, "steps": 2}
    numbers = [office.submit(), office.submit(model="svd-xt", changes=settings), office.submit(seed=8)]
    with working(office, folder, model="") as employed:
        assert [office.ended(number).state for number in numbers] == ["done"] * 3
        wait_for(lambda: office.status().state == "ready")
        assert office.status().model == "smoke"
        assert office.status().models == ("svd-xt", "smoke")
        # and somebody's wish is heeded without a job
        office.store.wish("svd-xt")
        wait_for(lambda: office.status().model == "svd-xt" and office.status().state == "ready")
        loaded = employed._model
        office.store.wish("svd-xt")  # again: reload
        wait_for(lambda: employed._model is not loaded and office.status().state == "ready")


def test_the_old_model_is_gone_before_the_new_one_comes(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may not be room for both."""
    load, left = adapters.load, []
    weights: list[weakref.ref[Any]] = []

    def loading(*arguments: Any, **more: Any) -> Any:
        left.append([reference for reference in weights if reference() is not None])
        model = load(*arguments, **more)
        weights.extend(weakref.ref(parameter) for parameter in model.pipe.unet.parameters())  # type: ignore[attr-defined]
        return model

    monkeypatch.setattr(adapters, "load", loading)
    with working(office, models):
        office.ended(office.submit())
        office.store.wish("smoke")
        wait_for(lambda: len(left) == 2 and office.status().state == "ready")
    assert len(weights) > 100
    assert left == [[], []]


def test_a_wish_waits_for_the_running_job(office: Office, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    number = office.submit()
    with working(office, models) as employed:
        assert gate.reached.wait(60)
        loaded = employed._model
        office.store.wish("smoke")
        time.sleep(0.2)
        assert office.status().state == "busy"
        gate.opened.set()
        assert office.ended(number).state == "done"
        wait_for(lambda: employed._model is not loaded)


def test_a_model_that_cannot_be_loaded_is_a_reason(office: Office, tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "models"
    (folder / "svd-xt").mkdir(parents=True)
    (folder / "svd-xt" / "model_index.json").write_text("{}")
    (folder / "smoke").symlink_to(models / "smoke")
    with working(office, folder, model="svd-xt"):
        wait_for(lambda: office.status().state == "failed")
        assert "does not hold a model that can be loaded" in office.status().reason
        broken = office.ended(office.submit(model="svd-xt"))
        assert broken.state == "failed"
        assert "the model is not loaded: " in broken.reason
        # another model can still be used
        assert office.ended(office.submit()).state == "done"
        wait_for(lambda: office.status().state == "ready")


def test_a_model_that_cannot_be_loaded_here_is_left_to_others(office: Office, tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "models"
    (folder / "svd-xt").mkdir(parents=True)
    (folder / "svd-xt" / "model_index.json").write_text("{}")
    (folder / "smoke").symlink_to(models / "smoke")
    office.store.beat(WorkerStatus("w2", "ready", "svd-xt", ("svd-xt",)))
    number = office.submit(model="svd-xt")
    with working(office, folder):
        assert office.ended(office.submit()).state == "done"
        assert (office.state(number), office.job(number).claim, office.job(number).deaths) == ("queued", 1, 0)
        office.store.bury("w2")  # now nobody else can
        assert "the model is not loaded: " in office.ended(number).reason


def test_a_name_that_comes_back_frees_what_its_last_bearer_held(office: Office, models: Path) -> None:
    """In a container, host and process number are the same at each start."""
    number = office.submit()
    office.store.beat(WorkerStatus("w1", "busy"))
    office.store.claim("w1", ["smoke"])
    with working(office, models):
        job = office.ended(number)
    assert (job.state, job.claim, job.deaths) == ("done", 2, 1)


class Rehearsals:
    """As on a GPU, where there are some: what was begun for nobody. `at_a_step` is done at each step of those."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[Any] = []
        self.steps = 0
        self.at_a_step: Callable[[], object] = lambda: None
        self._job: Callable[..., Any] = Diffusion.generate
        monkeypatch.setattr(Diffusion, "uuid", "GPU-of-a-test")
        monkeypatch.setattr(Diffusion, "generate", lambda *arguments: self._generate(*arguments))

    def _generate(self, model: Diffusion, batch: Any, on_step: OnStep, *rest: Any) -> Any:
        if batch[0].preset.steps != worker.REHEARSED:
            return self._job(model, batch, on_step, *rest)
        self.begun += batch

        def step(done: int, of: int, look: Look) -> None:
            self.steps += 1
            self.at_a_step()
            on_step(done, of, look)

        return self._job(model, batch, step, *rest)


@pytest.fixture
def rehearsals(monkeypatch: pytest.MonkeyPatch) -> Rehearsals:
    return Rehearsals(monkeypatch)


def test_on_a_gpu_a_video_is_begun_for_nobody_once_for_each_model_that_is_loaded(
    office: Office, models: Path, tmp_path: Path, rehearsals: Rehearsals
) -> None:
    with working(office, models) as employed:
        for steps in (2, 4):
            wait_for(lambda steps=steps: rehearsals.steps == steps)  # type: ignore[misc]
            assert office.status().state == "ready"
            assert office.store.measured("cpu", "smoke", "fp32") == []  # how long it took is nothing to reckon with
            office.store.wish("smoke", employed.duty.name)
        wait_for(lambda: rehearsals.steps == 6)
        assert office.ended(office.submit()).state == "done"
    assert len(rehearsals.begun) == 3
    preset, shape = CATALOG.model("smoke").preset("standard"), rehearsals.begun[0].preset
    assert (shape.width, shape.height, shape.frames) == (preset.width, preset.height, preset.frames)
    assert len(list((tmp_path / "media" / "videos").glob("*.mp4"))) == 1


def test_what_was_made_for_somebody_is_not_begun_for_nobody(
    office: Office, models: Path, rehearsals: Rehearsals
) -> None:
    number = office.submit()
    with working(office, models):
        office.ended(number)
        wait_for(lambda: office.status().state == "ready")
        time.sleep(0.2)
    assert rehearsals.begun == []


def test_a_job_stops_what_was_begun_for_nobody(office: Office, models: Path, rehearsals: Rehearsals) -> None:
    numbers: list[str] = []
    rehearsals.at_a_step = lambda: numbers.append(office.submit())
    with working(office, models):
        wait_for(lambda: numbers != [])
        assert office.ended(numbers[0]).state == "done"
    assert rehearsals.steps == 1


def test_a_worker_that_drains_stops_what_was_begun_for_nobody(
    office: Office, models: Path, rehearsals: Rehearsals
) -> None:
    drained = threading.Event()
    rehearsals.at_a_step = lambda: drained.wait(60)
    with working(office, models) as employed:
        wait_for(lambda: rehearsals.steps == 1)
        employed.control.drain()
        drained.set()
    assert rehearsals.steps == 1


def test_what_is_wrong_with_a_video_for_nobody_costs_nobody_one(
    office: Office, models: Path, rehearsals: Rehearsals
) -> None:
    rehearsals.at_a_step = lambda: 1 / 0
    with working(office, models):
        wait_for(lambda: rehearsals.steps == 1)
        assert office.ended(office.submit()).state == "done"


def test_without_room_on_the_gpu_nothing_is_begun_for_nobody(
    office: Office, models: Path, rehearsals: Rehearsals, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = CATALOG.model("smoke").preset("standard")
    monkeypatch.setattr(Worker, "_plan", lambda *_: memory.Refusal(2, 1, 1, (preset, 1), None, ()))
    with working(office, models):
        wait_for(lambda: office.status().state == "ready")
        time.sleep(0.2)
    assert rehearsals.begun == []


def test_a_card_that_is_lost_ends_the_worker(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Diffusion, "generate", broken)
    number, other = office.submit(), office.submit(seed=8)
    employed = Worker(
        office.store, office.media, CATALOG, Duty("w1", "smoke", models, Shelf(models / "artifacts"), most=1), Control()
    )
    with pytest.raises(RuntimeError, match="illegal memory access"):
        employed.run()
    assert (office.state(number), office.state(other)) == ("failed", "queued")
    assert office.store.workers() == []


def test_a_mistake_of_ours_does_not_come_back_for_ever(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "_do", lambda *_: 1 / 0)
    number = office.submit()
    for state in ("queued", "failed"):
        with pytest.raises(ZeroDivisionError):
            Worker(
                office.store,
                office.media,
                CATALOG,
                Duty("w1", "", models, Shelf(models / "artifacts"), most=1),
                Control(),
            ).run()
        assert office.state(number) == state
    assert office.job(number).reason == "ZeroDivisionError: division by zero"


def test_one_lost_picture_of_several_is_one_job_s_end(office: Office, models: Path) -> None:
    lost = office.store.submit(replace(office.order(), picture="00" * 32), limits=WIDE).id
    others = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models, most=3):
        assert office.ended(lost).state == "failed"
        assert [office.ended(number).state for number in others] == ["done", "done"]


def test_an_idle_model_is_unloaded_and_comes_back(office: Office, models: Path) -> None:
    with working(office, models, idle_s=0.1):
        for seed in (1, 2):
            assert office.ended(office.submit(seed=seed)).state == "done"
            wait_for(lambda: (office.status().state, office.status().model) == ("idle", ""))


def test_a_claim_that_was_lost_leaves_nothing(office: Office, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a time without a network: somebody else has the job, and what we made is not wanted."""
    gate = Gate(monkeypatch)
    number = office.submit()
    finish = office.store.finish

    def too_late(job: Job, outcome: Any) -> None:
        office.store.bury("w1", "cut off")
        (other,) = office.store.claim("w2", ["smoke"])
        finish(other, replace(outcome, video="videos/other.mp4"))
        finish(job, outcome)

    monkeypatch.setattr(office.store, "finish", too_late)
    with working(office, models):
        gate.opened.set()
        job = office.ended(number)
    assert (job.state, job.worker, job.claim) == ("done", "w2", 2)
    assert job.outcome is not None
    assert job.outcome.video == "videos/other.mp4"
    assert office.media.keys("videos") == []


def test_a_store_that_is_away_for_a_while_costs_nothing(
    office: Office, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = threading.Event()

    def sometimes(name: str) -> None:
        do = getattr(office.store, name)

        def maybe(*arguments: Any, **more: Any) -> Any:
            if away.is_set():
                raise StoreUnavailable("restarting")
            return do(*arguments, **more)

        monkeypatch.setattr(office.store, name, maybe)

    monkeypatch.setattr(worker, "PREVIEW_S", 0.0)
    for name in ("claim", "step", "preview", "finish", "beat", "wish_of"):
        sometimes(name)
    gate = Gate(monkeypatch)
    number = office.submit()
    with working(office, models):
        assert gate.reached.wait(60)
        away.set()
        gate.opened.set()
        time.sleep(0.5)
        assert office.state(number) == "running"
        away.clear()
        assert office.ended(number).state == "done"
        away.set()
        time.sleep(0.1)
        away.clear()
        assert office.ended(office.submit(seed=9)).state == "done"


def test_a_full_disk_is_one_job_s_end(office: Office, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move, fails = media._move, [True]

    def full(file: Path, to: Path) -> None:
        if fails.pop() if fails else False:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        move(file, to)

    monkeypatch.setattr(media, "_move", full)
    numbers = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models):
        failed = office.ended(numbers[0])
        assert failed.reason == f"videos/{numbers[0]}.json: No space left on device"
        assert office.ended(numbers[1]).state == "done"


def test_draining_ends_after_what_is_being_made(office: Office, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    numbers = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models) as employed:
        assert gate.reached.wait(60)
        employed.control.drain()
        gate.opened.set()
    assert [office.state(number) for number in numbers] == ["done", "queued"]


CHILD = """
import sys
from app import adapters, worker
from app.worker import Control
adapters.import_torch = lambda: print("imported", flush=True)
wake = Control.wake
Control.wake = lambda control: (print("woken", flush=True), wake(control))
worker._opened = lambda jobs: sys.exit("opened")
worker.main(None, "", "", None, is_child=True)
"""


def test_a_worker_leaves_the_store_alone_until_it_is_told_that_it_is_there() -> None:
    """It may be damaged, and the app about to mend it."""
    argv = [sys.executable, "-c", CHILD]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "imported\n"
        child.stdin.write("wake\n")
        child.stdin.flush()
        assert child.stdout.readline() == "woken\n"
        assert child.poll() is None
        child.stdin.write("begin\n")
        child.stdin.flush()
        assert child.stdout.readline() == "opened\n"
        assert child.wait() == 1
