"""app.crew: which workers there are; what happens when they die is in e2e/test_crashes.py"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from app import crew, server
from app.jobs.database import Database
from app.jobs.store import JobStore
from jingxiang import gpu


@pytest.mark.parametrize(
    ("visible", "build", "count", "found"),
    [
        (None, "2.13.0", 0, (None,)),
        (None, "2.13.0", 1, (None,)),
        (None, "2.13.0", 3, ("0", "1", "2")),
        (None, "2.13.0+cpu", 3, (None,)),
        ("2, GPU-5", "2.13.0", 4, ("2", "GPU-5")),
        ("2", "2.13.0", 4, (None,)),  # its only worker sees just that one
        ("", "2.13.0", 4, (None,)),
    ],
)
def test_each_card_that_may_be_used_has_a_worker(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, build: str, count: int, found: tuple[str | None, ...]
) -> None:
    monkeypatch.delenv(crew.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(crew.VISIBLE, visible)
    card = gpu.Gpu("H100", "580.1", 80 << 30, 80 << 30, "9.0")
    monkeypatch.setattr(gpu, "detect", lambda: gpu.Gpus((card,) * count))
    monkeypatch.setattr("app.cards.metadata.version", lambda name: build)
    assert crew.cards() == found


def test_one_that_dies_again_and_again_is_started_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)
        if len(pauses) == 8:
            raise asyncio.CancelledError

    async def dying(*_: object) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec("sh", "-c", "exit 7")

    monkeypatch.setattr(crew.Crew, "_start", dying)
    monkeypatch.setattr("app.crew.asyncio.sleep", noted)
    employed = crew.Crew(crew.Recruit("smoke", Path("models"), "sqlite:///x", "media"))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(employed.run())
    assert pauses == [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 60.0, 60.0]
    assert employed.reason == "the worker ended with exit code 7; its last words are in the log"


@pytest.mark.parametrize("is_late", [False, True])
def test_a_worker_may_use_the_store_once_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """Also one that is started after that."""
    store = JobStore(Database(f"sqlite:///{tmp_path / 'jobs.sqlite3'}", heals=True))
    employed = crew.Crew(crew.Recruit("smoke", Path("models"), "sqlite:///x", "media"))

    async def start(_: crew.Crew, name: str, card: str | None) -> asyncio.subprocess.Process:
        code = "import sys; sys.exit(5 if input() == 'begin' else 6)"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE)
        employed._processes[name] = process
        return process

    monkeypatch.setattr(crew.Crew, "_start", start)

    async def told() -> str:
        if is_late:
            employed.begin(store)
        running = asyncio.create_task(employed.run())
        while not employed.reason:
            await asyncio.sleep(0.01)
            if employed.is_at_work and not is_late:
                employed.begin(store)
        running.cancel()
        return employed.reason

    assert "exit code 5" in asyncio.run(asyncio.wait_for(told(), 60))
    store.close()


@pytest.mark.parametrize(("code", "patience_s", "end"), [
    ("import sys; sys.stdin.read(); sys.exit(3)", 60.0, 3), ("import time; time.sleep(600)", 0.1, -9),
])  # fmt: skip
def test_a_worker_is_told_to_end_and_killed_if_it_does_not(
    monkeypatch: pytest.MonkeyPatch, code: str, patience_s: float, end: int
) -> None:
    monkeypatch.setattr(crew, "STOP_S", patience_s)

    async def ended() -> int | None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE)
        await crew._ended(process)
        return process.returncode

    assert asyncio.run(ended()) == end


def test_nothing_heavy_is_imported_before_the_port_answers() -> None:
    code = (
        "import app.server, app.crew, app.access, app.logs, sys\n"
        "print({'sqlalchemy', 'fsspec', 'gradio', 'torch', 'fastapi', 'numpy', 'pynvml', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_gradio_is_imported_when_the_workers_are_on_their_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    imported: list[str] = []
    monkeypatch.setattr("app.server.importlib.import_module", imported.append)
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)

    async def started() -> tuple[list[str], list[str]]:
        tried = asyncio.Event()
        importing = asyncio.create_task(server._page_modules(tmp_path, tried))
        await asyncio.sleep(0.05)
        before = list(imported)
        tried.set()
        await importing
        return before, imported

    assert asyncio.run(started()) == ([], ["app.page.application"])
