"""app.engine and app.worker: a real worker process with the smoke model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app import generation
from app.engine import Draining, Engine, JobFailed
from app.texts import speaking
from jingxiang import models as catalog

ROOT = Path(__file__).resolve().parent.parent
SPEC = catalog.load(ROOT / "app" / "models.toml").model("smoke")
Steps = list[tuple[int, int]]


def order(photo: Path, output: Path, preset: str = "fast") -> generation.Order:
    return generation.order(SPEC, image=photo, prompt="a cat", preset=preset, seed=7, output=output)


def busy(engine: Engine) -> bool:
    """A function, because mypy believes that what was read once stays so."""
    return engine.busy


async def make(engine: Engine, wanted: generation.Order) -> Steps:
    return [step async for step in engine.make(wanted)]


def with_engine(models: Path, use: Callable[[Engine], Awaitable[None]]) -> None:
    """Run a test against a living engine, and see that its worker is gone afterwards."""

    async def main() -> None:
        engine = Engine(SPEC, models)
        running = asyncio.create_task(engine.run())
        try:
            await asyncio.wait_for(engine.settled(), 120)
            await use(engine)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert not workers()

    asyncio.run(main())


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "worker" in child.cmdline()]


def test_jobs_one_error_and_a_crash(models: Path, photo: Path, tmp_path: Path) -> None:
    """One worker for all of it: starting one costs seconds."""

    async def use(engine: Engine) -> None:
        assert engine.ready
        # two at once take turns, and each hears of its own steps
        wanted = [order(photo, tmp_path / f"{number}.mp4") for number in range(2)]
        steps = await asyncio.gather(*(make(engine, each) for each in wanted))
        assert steps == [[(done, 4) for done in range(1, 5)]] * 2
        assert wanted[0].output.read_bytes() == wanted[1].output.read_bytes()
        # what of a prompt is too long for the model is told
        unread: list[str] = []
        long_prompt = replace(order(photo, tmp_path / "long prompt.mp4"), prompt="x" * 80)
        assert [step async for step in engine.make(long_prompt, unread.append)] == steps[0]
        assert unread == ["x" * 5]
        # a job's error is in the language of the one who asked, and the next job runs
        bad = tmp_path / "bad.jpg"
        bad.write_text("no picture")
        with speaking("zh"):
            chinese = order(bad, tmp_path / "x.mp4")
        with pytest.raises(JobFailed, match=r"^bad\.jpg：不是图片"):
            await make(engine, chinese)
        # a job that nobody waits for any more does not disturb the next one
        abandoned = engine.make(order(photo, tmp_path / "abandoned.mp4"))
        assert await abandoned.__anext__() == (1, 4)
        await abandoned.aclose()
        assert await make(engine, order(photo, tmp_path / "after.mp4")) == steps[0]
        # killed in the middle of a job: said, and a new worker does the next one
        long = replace(order(photo, tmp_path / "long.mp4"), preset=replace(SPEC.preset("fast"), steps=500))
        running = engine.make(long)
        await running.__anext__()
        (worker,) = workers()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(JobFailed, match="the worker was killed; most often the machine ran out of memory"):
            async for _ in running:
                pass
        assert await make(engine, order(photo, tmp_path / "again.mp4")) == steps[0]
        assert (tmp_path / "again.mp4").read_bytes() == wanted[0].output.read_bytes()

    with_engine(models, use)


def test_a_draining_engine_takes_nothing_new_and_is_busy_until_the_worker_is_done(
    models: Path, tmp_path: Path, photo: Path
) -> None:
    async def use(engine: Engine) -> None:
        assert not busy(engine)
        running = engine.make(order(photo, tmp_path / "running.mp4"))
        assert await running.__anext__() == (1, 4)
        waiting = asyncio.create_task(make(engine, order(photo, tmp_path / "waiting.mp4")))
        await asyncio.sleep(0)
        assert busy(engine)
        engine.draining = True
        with speaking("zh"):
            late = order(photo, tmp_path / "late.mp4")
        with pytest.raises(Draining, match="服务即将停止，不再接受新视频；请一分钟后再试"):
            await make(engine, late)
        assert [step async for step in running] == [(2, 4), (3, 4), (4, 4)]
        with pytest.raises(Draining, match="the server is about to stop and takes no new videos"):
            await waiting
        assert not busy(engine)
        assert [path.name for path in tmp_path.glob("*.mp4")] == ["running.mp4"]

    with_engine(models, use)


def test_a_video_that_nobody_waits_for_any_more_still_keeps_the_engine_busy(
    models: Path, tmp_path: Path, photo: Path
) -> None:
    async def use(engine: Engine) -> None:
        abandoned = engine.make(order(photo, tmp_path / "abandoned.mp4"))
        await abandoned.__anext__()
        await abandoned.aclose()
        assert busy(engine)
        while busy(engine):
            await asyncio.sleep(0.01)
        assert (tmp_path / "abandoned.mp4").exists()
        # one that dies has nothing left to do
        long = replace(SPEC.preset("fast"), steps=500)
        dying = engine.make(replace(order(photo, tmp_path / "dying.mp4"), preset=long))
        await dying.__anext__()
        await dying.aclose()
        workers()[0].kill()
        while busy(engine):
            await asyncio.sleep(0.01)
        assert not (tmp_path / "dying.mp4").exists()

    with_engine(models, use)


def test_sigterm_does_not_end_a_worker(models: Path, tmp_path: Path, photo: Path) -> None:
    """What is sent to all processes of a service reaches it, too; the app ends it when its video is done."""

    async def use(engine: Engine) -> None:
        running = engine.make(order(photo, tmp_path / "running.mp4"))
        await running.__anext__()
        workers()[0].terminate()
        assert [step async for step in running] == [(2, 4), (3, 4), (4, 4)]
        assert workers()[0].is_running()

    with_engine(models, use)


def test_a_model_that_cannot_be_loaded_is_a_reason_and_not_a_loop(tmp_path: Path, photo: Path) -> None:
    broken = tmp_path / "smoke"
    broken.mkdir()
    (broken / "model_index.json").write_text("{}")

    async def use(engine: Engine) -> None:
        assert not engine.ready
        assert "does not hold a model that can be loaded" in engine.reason
        with pytest.raises(JobFailed, match="the model is not loaded"):
            await make(engine, order(photo, tmp_path / "x.mp4"))

    with_engine(tmp_path, use)


def test_a_worker_does_not_outlive_its_app(models: Path) -> None:
    """Killed without a chance to clean up, the app takes its worker with it: the worker's stdin ends."""
    code = (
        "import asyncio, pathlib, sys; from app.engine import Engine; from jingxiang import models as catalog\n"
        "spec = catalog.load(pathlib.Path('app/models.toml')).model('smoke')\n"
        "async def main():\n"
        "    engine = Engine(spec, pathlib.Path(sys.argv[1])); task = asyncio.create_task(engine.run())\n"
        "    await engine.settled(); print(engine._process.pid, flush=True); await task\n"
        "asyncio.run(main())"
    )
    import subprocess
    import sys

    with subprocess.Popen(
        [sys.executable, "-c", code, str(models)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as app:
        assert app.stdout is not None
        worker = psutil.Process(int(app.stdout.readline()))
        assert worker.is_running()
        app.kill()
    worker.wait(timeout=30)
