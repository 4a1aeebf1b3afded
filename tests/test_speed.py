"""app.speed: a real worker with the smoke model, which believes that compiled code makes it fast"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from app import cards, speed
from app.adapters import keys
from app.adapters.base import Diffusion
from app.artifacts import Artifact, Hindered, Key, Shelf, Unusable
from app.cards import Space
from app.jobs.base import Speed, WorkerStatus
from app.worker import Control, Duty, Worker
from jingxiang.models import Preset
from tests.peers import compiler
from tests.peers.app import wait_for
from tests.test_worker import CATALOG, Office, _fast, office

__all__ = ["_fast", "office"]

SMOKE = CATALOG.model("smoke")
FAST = SMOKE.preset("fast")
GB = 1_000_000_000


def key(preset: Preset = FAST) -> Key:
    return compiler.key(SMOKE, None, preset, dtype="fp32")


@dataclass
class Bench:
    """What the worker's model was given, and what it was made with: the batch, and whether that was compiled."""

    shelf: Shelf
    adopted: list[Key] = field(default_factory=list)
    made: list[tuple[int, bool]] = field(default_factory=list)
    refuses: type[Unusable | Hindered] | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)

    def put(self, *keys: Key) -> None:
        for each in keys:
            with self.shelf.draft() as into:
                (into / "part").write_bytes(b"compiled")
                self.shelf.put(each, into)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench(Shelf(tmp_path / "artifacts"))
    generate = Diffusion.generate

    def compilation(model: Diffusion, preset: Preset) -> Key | None:
        return compiler.key(model.spec, None, preset, dtype=model.dtype_name) if keys.is_guided(preset) else None

    def adopt(model: Diffusion, artifact: Artifact, scratch: Path) -> None:
        assert scratch.is_dir()
        if found.refuses:
            raise found.refuses(artifact.key, "no such kernel")
        found.adopted.append(artifact.key)

    def generated(model: Diffusion, batch: Any, *rest: Any, **more: Any) -> Any:
        wanted = compilation(model, batch[0].preset)
        found.made.append((len(batch), len(batch) == 1 and wanted in found.adopted))
        return generate(model, batch, *rest, **more)

    for name, do in {"compilation": compilation, "adopt": adopt, "generate": generated}.items():
        monkeypatch.setattr(Diffusion, name, do, raising=False)
    monkeypatch.setattr(speed, "APP", compiler.PROGRAM)
    monkeypatch.setattr(speed, "LOOK_S", 0.01)
    monkeypatch.setenv("JINGXIANG_COMPILE", "always")
    monkeypatch.setenv("FAKE_COMPILER_PIDS", str(tmp_path / "pids"))
    return found


@contextmanager
def working(office: Office, models: Path, bench: Bench, **changes: Any) -> Iterator[Worker]:
    duty = replace(Duty("w1", "smoke", models, bench.shelf, most=1), **changes)
    employed = Worker(office.store, office.media, CATALOG, duty, Control())
    beat = office.store.beat

    def noted(status: WorkerStatus) -> None:
        if bench.seen[-1:] != [(status.speed, status.speed_of)]:
            bench.seen.append((status.speed, status.speed_of))
        beat(status)

    office.store.beat = noted  # type: ignore[method-assign]
    thread = threading.Thread(target=employed.run)
    thread.start()
    try:
        yield employed
    finally:
        employed.control.drain()
        thread.join(60)
        assert not thread.is_alive()


def pids(tmp_path: Path) -> list[int]:
    """Of the program that compiles and of its own child, once it hangs."""
    wait_for(lambda: (tmp_path / "pids").exists() and len((tmp_path / "pids").read_text().split()) == 2)
    return [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_on_the_shelf_is_used_from_the_first_video_on(
    office: Office, models: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.put(key())
    with working(office, models, bench):
        for seed in (1, 2):
            assert office.ended(office.submit(seed=seed)).state == "done"
        wait_for(lambda: office.status().state == "ready")
        assert (office.status().speed, office.status().speed_of) == ("compiled", "64x64x8")
    assert bench.made == [(1, True), (1, True)]
    assert bench.adopted == [key()], "once"
    assert capsys.readouterr().err.count("speed    64x64x8: compiled code is used\n") == 1


def test_what_most_videos_want_is_loaded_before_the_first_one(office: Office, models: Path, bench: Bench) -> None:
    standard = SMOKE.preset("standard")
    bench.put(key(), key(standard))
    with working(office, models, bench):
        wait_for(lambda: bench.adopted == [key(standard)], 120)
        for seed in (1, 2):
            number = office.submit(seed=seed, preset="standard", changes={"steps": 1})
            assert office.ended(number).state == "done"
    assert bench.adopted == [key(standard)], "once"
    assert bench.made == [(1, True)] * 2


def test_without_it_a_video_is_made_at_once_and_the_next_ones_are_faster(
    office: Office, models: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with working(office, models, bench):
        assert office.ended(office.submit(seed=1)).state == "done"
        wait_for(lambda: bench.adopted == [key()], 120)
        assert office.ended(office.submit(seed=2)).state == "done"
    assert bench.made == [(1, False), (1, True)]
    assert [each for each in bench.seen if each != ("", "")] == [
        ("eager", "64x64x8"), ("compiling", "64x64x8"), ("compiled", "64x64x8")
    ]  # fmt: skip
    found = bench.shelf.find(key())
    assert found is not None
    assert found.files == compiler.PARTS
    said = capsys.readouterr().err
    assert "speed    64x64x8: is compiled in the background; the next videos will be faster\n" in said
    assert "speed    64x64x8: compiled code is used\n" in said


def test_a_size_of_the_user_s_own_is_compiled_when_it_is_asked_for_again(
    office: Office, models: Path, bench: Bench
) -> None:
    wanted, other = replace(FAST, width=72, frames=6), replace(FAST, width=80)
    with working(office, models, bench):
        for changes in ({"width": 72, "frames": 6}, {"width": 80}):
            assert office.ended(office.submit(changes={**changes, "steps": 2})).state == "done"
        assert {speed for speed, _ in bench.seen} == {"", "eager"}
        assert office.ended(office.submit(changes={"width": 72, "frames": 6, "steps": 2})).state == "done"
        wait_for(lambda: bench.adopted == [key(wanted)], 120)
    assert key(other) not in [each.key for each in bench.shelf.all()]


def test_videos_without_guidance_are_not_said_to_be_compiled(office: Office, models: Path, bench: Bench) -> None:
    bench.put(key())
    with working(office, models, bench):
        assert office.ended(office.submit(changes={"guidance": 1.0})).state == "done"
        assert office.status().speed == ""
        assert office.ended(office.submit()).state == "done"
        wait_for(lambda: office.status().speed == "compiled")
    assert bench.made == [(1, False), (1, True)]


def test_several_at_once_are_made_one_by_one_where_only_that_is_compiled(
    office: Office, models: Path, bench: Bench
) -> None:
    bench.put(key())
    numbers = [office.submit(seed=seed) for seed in (1, 2, 3)]
    with working(office, models, bench, most=4):
        assert [office.ended(number).state for number in numbers] == ["done"] * 3
    assert bench.made == [(1, True)] * 3


def harmed(bench: Bench) -> None:
    (bench.shelf.folder / key().digest / "part").write_bytes(b"compilef")


def left_aside(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), bench.shelf.adopting(key()):
        raise ZeroDivisionError


def refused(bench: Bench) -> None:
    bench.refuses = Unusable


@pytest.mark.parametrize("harm", [harmed, left_aside, refused])
def test_several_at_once_stay_together_where_what_is_compiled_cannot_be_used(
    office: Office, models: Path, bench: Bench, harm: Callable[[Bench], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COMPILER", "hangs")  # what is damaged stays so
    bench.put(key())
    harm(bench)
    with working(office, models, bench, most=4):
        assert office.ended(office.submit(seed=1)).state == "done"  # what torch refuses is not known before
    for seed in (2, 3, 4):
        office.submit(seed=seed)
    with working(office, models, bench, most=4):
        wait_for(lambda: sum(size for size, _ in bench.made) == 4, 120)
    assert bench.made == [(1, False), (3, False)]


def test_what_torch_does_not_take_costs_a_line_and_no_video(
    office: Office, models: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.put(key())
    bench.refuses = Unusable
    with working(office, models, bench):
        for seed in (1, 2):
            assert office.ended(office.submit(seed=seed)).state == "done"
        assert office.status().speed == "eager"
    said = capsys.readouterr().err
    assert said.count("no such kernel") == 1
    assert "is compiled in the background" not in said, "it would be the same again"
    bench.refuses = None
    with working(office, models, bench):
        assert office.ended(office.submit(seed=3)).state == "done"
    assert "64x64x8: what was compiled is left aside, because a worker could not use it" in capsys.readouterr().err
    assert bench.adopted == []


def test_what_a_machine_lacks_today_it_may_have_tomorrow(
    office: Office, models: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.put(key())
    bench.refuses = Hindered
    with working(office, models, bench):
        for seed in (1, 2):
            assert office.ended(office.submit(seed=seed)).state == "done"
    assert capsys.readouterr().err.count("no such kernel") == 1
    bench.refuses = None
    with working(office, models, bench):
        assert office.ended(office.submit(seed=3)).state == "done"
    assert bench.made == [(1, False), (1, False), (1, True)]


def test_a_damaged_one_is_made_anew(
    office: Office, models: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.put(key())
    (bench.shelf.folder / key().digest / "part").write_bytes(b"compilef")
    with working(office, models, bench):
        assert office.ended(office.submit(seed=1)).state == "done"
        wait_for(lambda: bench.adopted == [key()], 120)
    assert bench.made == [(1, False)]
    assert capsys.readouterr().err.count("part has another SHA-256") == 1


def test_what_cannot_be_compiled_is_said_once_and_not_tried_again(
    office: Office, models: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_COMPILER", "fails")
    with working(office, models, bench):
        assert office.ended(office.submit(seed=1)).state == "done"
        wait_for(lambda: ("compiling", "64x64x8") in bench.seen and office.status().speed == "eager", 120)
        assert office.ended(office.submit(seed=2)).state == "done"
    said = capsys.readouterr().err
    assert said.count("is compiled in the background") == 1
    reason = "64x64x8: could not be compiled; videos are made without it: RuntimeError: ptxas fatal: out of registers"
    assert said.count(reason) == 1
    assert bench.made == [(1, False)] * 2


def test_draining_ends_it_at_once(
    office: Office, models: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FAKE_COMPILER", "hangs")
    with working(office, models, bench):
        assert office.ended(office.submit()).state == "done"
        both = pids(tmp_path)
        assert all(map(lives, both))
        assert [len(list(draft.iterdir())) for draft in bench.shelf.folder.glob("draft-*")] == [2], "scratch, too"
        assert office.status().speed == "compiling"
    wait_for(lambda: not any(map(lives, both)))
    assert "could not be compiled" not in capsys.readouterr().err, "nothing went wrong"
    monkeypatch.setenv("FAKE_COMPILER", "")
    with working(office, models, bench):
        office.ended(office.submit(seed=2))
        wait_for(lambda: bench.adopted == [key()], 120)
    assert not list(bench.shelf.folder.glob("draft-*")), "what it had begun is gone"


KILLED = """
import sys, time
from pathlib import Path
from app import generation, speed
from app.artifacts import Shelf
from tests.peers import compiler
from tests.test_speed import SMOKE

class Model:
    spec, dtype_name, uuid = SMOKE, "fp32", ""
    def estimate(self, preset, batch):
        return 0
    def compilation(self, preset):
        return compiler.key(SMOKE, None, preset, dtype="fp32")

speed.APP = compiler.PROGRAM
booster = speed.Booster(Shelf(Path(sys.argv[1])), Path(sys.argv[2]), told=print, is_draining=lambda: False)
order = generation.order(SMOKE, picture="00", prompt="a cat", preset="fast", seed=1)
booster.follow(Model(), order)
time.sleep(600)
"""


def test_it_does_not_outlive_a_worker_that_is_killed(bench: Bench, models: Path, tmp_path: Path) -> None:
    env = {**os.environ, "FAKE_COMPILER": "hangs"}
    argv = [sys.executable, "-c", KILLED, str(bench.shelf.folder), str(models)]
    with subprocess.Popen(argv, env=env, cwd=compiler.ROOT) as killed:
        both = pids(tmp_path)
        killed.kill()
    wait_for(lambda: not any(map(lives, both)))


def test_a_model_that_is_idle_is_unloaded_and_compiled_all_the_same(office: Office, models: Path, bench: Bench) -> None:
    with working(office, models, bench, idle_s=0.01):
        assert office.ended(office.submit(seed=1)).state == "done"
        wait_for(lambda: office.status().state == "idle" and office.status().speed == "", 120)
        assert [each.key for each in bench.shelf.all()] == [key()]
        assert office.ended(office.submit(seed=2)).state == "done"
    assert bench.made == [(1, False), (1, True)]


def test_a_video_for_which_memory_ran_out_ends_it(
    office: Office, models: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COMPILER", "hangs")
    generate = Diffusion.generate

    def scarce(model: Diffusion, batch: Any, *rest: Any, **more: Any) -> Any:
        run = generate(model, batch, *rest, **more)
        return replace(run, rung="frames", retried_from="full") if batch[0].seed == 2 else run

    monkeypatch.setattr(Diffusion, "generate", scarce)
    with working(office, models, bench):
        office.ended(office.submit(seed=1))
        both = pids(tmp_path)
        office.ended(office.submit(seed=2))
        wait_for(lambda: not any(map(lives, both)))
        wait_for(lambda: office.status().speed == "eager")


def test_another_model_does_not_wait_for_it(
    office: Office, models: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COMPILER", "hangs")
    with working(office, models, bench):
        office.ended(office.submit())
        both = pids(tmp_path)
        office.store.wish("smoke")
        wait_for(lambda: not any(map(lives, both)))
        wait_for(lambda: office.status().speed == "")


@dataclass
class Card:
    """Memory of a GPU that there is not."""

    free_bytes: int

    def space(self, *_: object) -> Space:
        return Space(True, 80 * GB, self.free_bytes)


def test_it_is_not_tried_while_the_card_is_full(
    office: Office, models: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Card(4 * GB)
    monkeypatch.setattr(cards, "of", card.space)
    with working(office, models, bench):
        for seed in (1, 2):
            assert office.ended(office.submit(seed=seed)).state == "done"
        said = capsys.readouterr().err
        assert said.count("nothing is compiled while less than 5.5 GB of the GPU are free; 4.0 GB are") == 1
        assert "is compiled in the background" not in said
        card.free_bytes = 40 * GB
        assert office.ended(office.submit(seed=3)).state == "done"
        wait_for(lambda: bench.adopted == [key()], 120)


def test_a_model_that_needs_more_than_compiling_does_is_waited_for(
    office: Office, models: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program that compiles makes a video of two steps first."""
    monkeypatch.setattr(cards, "of", Card(20 * GB).space)
    monkeypatch.setattr(Diffusion, "estimate", lambda *_: 18 * GB)
    with working(office, models, bench):
        assert office.ended(office.submit()).state == "done"
    said = capsys.readouterr().err
    assert "nothing is compiled while less than 20.6 GB of the GPU are free; 20.0 GB are" in said
    assert "is compiled in the background" not in said


def test_no_video_has_less_memory_because_of_it(
    office: Office, models: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COMPILER", "hangs")
    card = Card(6 * GB)
    monkeypatch.setattr(cards, "of", card.space)
    with working(office, models, bench) as employed:
        office.ended(office.submit(seed=1))
        both = pids(tmp_path)
        card.free_bytes = 1  # it has taken the rest

        def plan(model: Any, preset: Preset, batch: int, known: Any) -> Any:
            if not any(map(lives, both)):
                card.free_bytes = 6 * GB
            return Worker._plan(employed, model, preset, batch, known)

        monkeypatch.setattr(employed, "_plan", plan)
        assert office.ended(office.submit(seed=2)).state == "done"


def test_a_shelf_that_cannot_be_written_is_said_once(
    office: Office, models: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    bench.put(key())
    bench.shelf = Shelf(tmp_path / "file" / "artifacts", bench.shelf.folder)
    with working(office, models, bench):
        assert office.ended(office.submit(seed=1)).state == "done"
        for seed in (1, 2):
            number = office.submit(seed=seed, preset="standard", changes={"steps": 1})
            assert office.ended(number).state == "done"
    assert bench.made == [(1, True), (1, False), (1, False)], "what is there is used all the same"
    assert capsys.readouterr().err.count("artifacts cannot be written, so nothing is compiled") == 1


def test_where_nothing_is_compiled_nothing_is_said(
    office: Office, models: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Diffusion, "compilation", lambda *_: None)
    numbers = [office.submit(seed=seed) for seed in (1, 2)]
    with working(office, models, bench, most=2):
        assert [office.ended(number).state for number in numbers] == ["done"] * 2
        assert office.status().speed == ""
    assert [size for size, _ in bench.made] == [2]
    assert "compiled" not in capsys.readouterr().err
    assert not bench.shelf.folder.exists()


def test_time_is_given_to_videos_first() -> None:
    """What the child does first of all, in a process of its own."""
    code = "import os, sys; from app import warming; warming.stand_back(); print(os.nice(0)); sys.stdout.flush(); " \
           "import time; time.sleep(600)"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=compiler.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert int(child.stdout.readline()) == os.nice(0) + 10
        start = time.monotonic()
        child.stdin.close()
        child.wait(20)
    assert child.returncode == -9
    assert time.monotonic() - start < 20


def test_the_page_has_words_for_each_state() -> None:
    script = (compiler.ROOT / "app" / "page" / "static" / "system.js").read_text(encoding="utf-8")
    assert ["", *re.findall(r"^  (\w+): \(size\) =>", script, re.MULTILINE)] == list(get_args(Speed))
