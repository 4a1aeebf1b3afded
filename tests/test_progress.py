"""jingxiang.progress, on a real terminal and without one"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from jingxiang import console, progress
from jingxiang.fetch.schedule import Progress
from jingxiang.progress import BAR_COLUMNS, CLEAR, Bar, fitted

HALF = Progress(500_000, 1_000_000, 1, 3, "weights.bin", 0.25)
Shown = Callable[[], str]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Shown]]:
    """Makes stderr a terminal of so many columns; stdout is none. Gives what was written since it was last asked."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()

    def read() -> str:
        text = b""
        while select.select([ours], [], [], 0.05)[0]:
            text += os.read(ours, 4096)
        return text.decode()

    with os.fdopen(theirs, "w", encoding="utf-8") as stderr:

        def start(columns: int) -> Shown:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            monkeypatch.setattr(sys, "stderr", stderr)
            return read

        yield start
    os.close(ours)


def test_a_terminal_has_a_bar_from_the_first_moment_on(terminal: Callable[[int], Shown]) -> None:
    shown = terminal(100)
    with Bar() as bar:
        bar(HALF)
        assert shown() == f"{CLEAR}fetch    {'█' * 10}{'░' * 11}  500 kB / 1.0 MB  1/3 files  weights.bin 25%"
    assert shown() == CLEAR  # whoever writes next finds an empty line


def test_the_bar_is_gone_when_something_goes_wrong(terminal: Callable[[int], Shown]) -> None:
    shown = terminal(100)

    def interrupted() -> None:
        with Bar() as bar:
            bar(HALF)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert shown().endswith(f"25%{CLEAR}")


@pytest.mark.parametrize(("done", "total", "filled"), [(0, 0, 0), (0, 9, 0), (1, 3, 7), (9, 9, 21), (12, 9, 21)])
def test_the_bar_is_as_full_as_what_is_done(
    terminal: Callable[[int], Shown], done: int, total: int, filled: int
) -> None:
    """More than all is done for a moment, when a file turns out to be longer than was said."""
    shown = terminal(100)
    with Bar() as bar:
        bar(Progress(done, total, 0, 1))
        assert re.findall("[█░]+", shown()) == ["█" * filled + "░" * (BAR_COLUMNS - filled)]


def test_speed_and_time_left_are_those_of_the_last_seconds(
    terminal: Callable[[int], Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SPEED_S", 0.4)
    shown = terminal(100)
    with Bar() as bar:
        bar(Progress(0, 1_000_000_000, 0, 1))
        time.sleep(0.5)  # nothing comes
        bar(Progress(0, 1_000_000_000, 0, 1))
        assert "MB/s" not in shown()
        for done in (1, 2):
            time.sleep(0.25)
            bar(Progress(done * 2_500_000, 1_000_000_000, 0, 1))
        text = shown().rpartition(CLEAR)[2]
    found = re.search(r"  5\.0 MB / 1\.0 GB  0/1 files  (\d+\.\d) MB/s  eta (\d+):(\d\d)$", text)
    assert found, text
    speed, left_s = float(found[1]), int(found[2]) * 60 + int(found[3])
    assert 4 < speed < 10.5
    assert left_s == pytest.approx(995 / speed, rel=0.05)


def test_files_that_another_process_fetches_are_said(terminal: Callable[[int], Shown]) -> None:
    shown = terminal(100)
    with Bar() as bar:
        bar(Progress(0, 10, 0, 3, elsewhere=2))
        assert shown().endswith("  0 B / 10 B  0/3 files  2 files by another process")


def test_the_bar_is_redrawn_ten_times_a_second_and_not_more(terminal: Callable[[int], Shown]) -> None:
    shown = terminal(100)
    with Bar() as bar:
        start = time.monotonic()
        while time.monotonic() - start < 0.55:
            bar(HALF)
        drawn = shown().count(CLEAR)
    assert 2 <= drawn <= 6  # the first one at once


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("columns", [20, 50, 80])
def test_the_bar_fits_the_terminal_that_it_is_on(
    terminal: Callable[[int], Shown], monkeypatch: pytest.MonkeyPatch, language: str, columns: int
) -> None:
    """A longer line would scroll; Chinese takes twice the room."""
    monkeypatch.setenv("JINGXIANG_LANG", language)
    shown = terminal(columns)
    with Bar() as bar:
        bar(Progress(500, 1000, 1, 3, "一个名字很长的文件" * 10, 0.25))
        text = shown().removeprefix(CLEAR)
    assert columns - 3 < console.columns(text) < columns


def test_a_terminal_that_cannot_move_its_cursor_has_lines(
    terminal: Callable[[int], Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = terminal(100)
    monkeypatch.setenv("TERM", "dumb")
    with Bar() as bar:
        bar(HALF)
    assert shown() == ""


def test_without_a_terminal_there_is_a_plain_line_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.3)
    with Bar() as bar:
        start = time.monotonic()
        while time.monotonic() - start < 0.75:
            bar(HALF)
            time.sleep(0.01)
    out, err = capsys.readouterr()
    assert (out, set(err.splitlines())) == ("", {"fetch    500 kB / 1.0 MB  1/3 files  weights.bin 25%"})
    assert 1 <= len(err.splitlines()) <= 2


def test_what_takes_no_time_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar() as bar:
        bar(HALF)
    assert capsys.readouterr() == ("", "")


def test_it_speaks_chinese(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    with Bar() as bar:
        bar(Progress(0, 1_000_000, 0, 3, elsewhere=2))
        time.sleep(0.05)
        bar(Progress(500_000, 1_000_000, 1, 3, elsewhere=2))
    words = re.findall(r"[A-Za-z/]{3,}", capsys.readouterr().err)
    assert words == ["MB/s"]


def test_a_text_is_cut_to_the_cells_that_there_are() -> None:
    assert fitted("fetch", 9) == "fetch"
    assert fitted("fetch", 3) == "fet"
    assert fitted("获取 x", 4) == "获取"
    assert fitted("获取 x", 3) == "获"
    assert fitted("fetch", 0) == "f"
