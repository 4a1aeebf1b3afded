"""jingxiang.env_plan: its scripts, in a home of their own, with programs that stand for the app"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jingxiang import env_plan

# Ends at once when it is told to; each start leaves a line.
APP = ("sh", "-c", "'echo started >>../starts; trap \"exit 0\" TERM; while :; do sleep 0.05; done'")


class Host:
    """A login's home, below a name that is not its physical one."""

    def __init__(self, folder: Path) -> None:
        (folder / "disk").mkdir()
        (folder / "home").symlink_to("disk")
        self.home = folder / "home"
        self.folder = self.home / env_plan.FOLDER / "versions" / "v1"
        (self.folder / "src").mkdir(parents=True)
        (self.folder / "run.sh").write_text(env_plan.kept_running(APP))

    def run(self, script: str, *arguments: str, given: str = "") -> str:
        env = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            ["sh", "-c", script, "sh", *(arguments or ("versions/v1",))], env=env, input=given, capture_output=True,
            text=True, check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def life(self) -> str:
        return self.run(env_plan.LIFE)

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    @property
    def starts(self) -> int:
        return len((self.folder / "starts").read_text().splitlines())

    @property
    def keepers(self) -> list[int]:
        """All that keep it running, or are about to begin with it again."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if (each / "cwd").resolve() == self.folder.resolve() and b"run.sh" in (each / "cmdline").read_bytes():
                    found.append(int(each.name))
            except OSError:  # it has ended meanwhile
                continue
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    yield found
    found.run(env_plan.END)
    wait_until(lambda: not found.keepers)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_started_runs_also_below_a_link_and_is_told_once_to_end(host: Host) -> None:
    host.run(env_plan.START)
    assert host.life() == "runs"
    host.run(env_plan.START)
    assert (host.starts, len(host.keepers)) == (1, 1), "it runs already"
    host.run(env_plan.FINISH)
    wait_until(lambda: host.life() == "0")
    assert (host.folder / "stop").exists()


def test_what_was_settled_is_started_again_when_it_dies_and_what_was_not_is_not(host: Host) -> None:
    host.run(env_plan.START)
    os.kill(host.pid, signal.SIGKILL)
    wait_until(lambda: host.life() == "137")
    wait_until(lambda: not host.keepers)
    host.run(env_plan.START)
    host.run(env_plan.SETTLE)
    before = host.pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: host.life() == "runs" and host.pid != before)
    assert host.starts == 3


def test_one_that_is_about_to_be_started_again_is_not_when_it_is_told_to_end(host: Host) -> None:
    host.run(env_plan.START)
    host.run(env_plan.SETTLE)
    os.kill(host.pid, signal.SIGKILL)
    wait_until(lambda: host.life() == "137")
    host.run(env_plan.FINISH)
    wait_until(lambda: not host.keepers)
    assert (host.life(), host.starts) == ("137", 1)


def test_one_that_is_about_to_be_started_again_is_started_once(host: Host) -> None:
    host.run(env_plan.START)
    host.run(env_plan.SETTLE)
    os.kill(host.pid, signal.SIGKILL)
    wait_until(lambda: host.life() == "137")
    host.run(env_plan.START)
    assert host.life() == "runs"
    wait_until(lambda: len(host.keepers) == 1)
    assert (host.starts, host.life()) == (2, "runs")


def test_a_second_word_to_end_is_no_second_signal(host: Host) -> None:
    slow = ("sh", "-c", "'trap \"echo told >>../told\" TERM; while :; do sleep 0.05; done'")
    (host.folder / "run.sh").write_text(env_plan.kept_running(slow))
    host.run(env_plan.START)
    time.sleep(0.3)  # until it listens to signals
    for _ in range(3):
        host.run(env_plan.FINISH)
    wait_until(lambda: (host.folder / "told").exists())
    assert (host.folder / "told").read_text() == "told\n"
    assert host.life() == "runs"


def test_a_log_that_has_grown_is_cut_at_the_next_start(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    log = host.folder / "log"
    with log.open("wb") as file:
        file.truncate(env_plan.LOG_BYTES + 1)
    host.run(env_plan.START)
    assert log.stat().st_size == env_plan.LOG_BYTES // 4


def test_a_log_is_read_on_from_where_it_was_and_anew_when_it_is_another_one(host: Host) -> None:
    log = host.folder / "log"
    log.write_text("first\nsecond\n")
    assert host.run(env_plan.MORE, "versions/v1", "6") == "13\nsecond"
    log.write_text("new\n")
    assert host.run(env_plan.MORE, "versions/v1", "13") == "4\nnew"
    assert host.run(env_plan.MORE, "versions/none", "0") == "0"


def test_files_that_the_bundle_has_no_more_go(host: Host) -> None:
    bundle = host.home / env_plan.FOLDER / "bundle"
    for path in ("pypi/a/a-1.whl", "pypi/a/a-2.whl", "hub/old/x", "bundle.json"):
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_text(path)
    host.run(env_plan.WEED, given="pypi/a/a-2.whl\nbundle.json\n")
    left = {each.relative_to(bundle).as_posix() for each in bundle.rglob("*") if each.is_file()}
    assert left == {"pypi/a/a-2.whl", "bundle.json"}
    assert not (bundle / "hub").exists()
    assert not (host.home / env_plan.FOLDER / "bundle.listed").exists()
