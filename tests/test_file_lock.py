"""jingxiang.file_lock"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jingxiang.file_lock import held, is_left

ROOT = Path(__file__).resolve().parent.parent
COUNT = """
import sys
from pathlib import Path
from jingxiang.file_lock import held
lock, count = Path(sys.argv[1], "lock"), Path(sys.argv[1], "count")
for _ in range(300):
    with held(lock):
        count.write_text(str(int(count.read_text()) + 1))
"""


def test_processes_come_in_one_by_one_although_the_file_is_removed_each_time(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    argv = [sys.executable, "-c", COUNT, str(tmp_path)]
    for process in [subprocess.Popen(argv, cwd=ROOT) for _ in range(4)]:
        assert process.wait(60) == 0
    assert (tmp_path / "count").read_text() == "1200"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_what_a_killed_process_has_left_is_told_from_what_is_held(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_left(lock)
    assert not lock.exists()
    with held(lock):
        assert not is_left(lock)
    assert not is_left(lock), "it was removed"
    killed = "import os, sys; from pathlib import Path; from jingxiang.file_lock import held; " \
             "lock = held(Path(sys.argv[1])); lock.__enter__(); os._exit(9)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", killed, str(lock)], cwd=ROOT, check=False).returncode == 9
    assert is_left(lock)
    assert lock.exists()


def test_who_does_not_wait_is_told_at_once_and_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with held(lock):
        with held(lock, wait=False) as ours:
            assert not ours
        assert lock.exists()  # it was not theirs to remove
    with held(lock, wait=False) as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


def test_threads_of_one_process_wait_for_each_other_too(tmp_path: Path) -> None:
    seen: list[str] = []

    def other() -> None:
        with held(tmp_path / "lock"):
            seen.append("other")

    thread = threading.Thread(target=other)
    with held(tmp_path / "lock"):
        thread.start()
        thread.join(0.2)
        seen.append("we")
    thread.join(30)
    assert seen == ["we", "other"]


def test_the_file_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    code = COUNT.replace("for _", "with held(lock): import os; os.kill(os.getpid(), 9)\nfor _")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False).returncode == -9
    assert (tmp_path / "lock").exists()
    with held(tmp_path / "lock", wait=False) as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


def test_it_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path / "lock"):
        _ = 1 / 0
    with held(tmp_path / "lock", wait=False) as ours:
        assert ours


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), held(tmp_path / "absent" / "lock"):
        pass
