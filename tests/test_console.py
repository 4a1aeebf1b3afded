"""jingxiang.console"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable

import pytest

from jingxiang import console
from jingxiang.errors import JingxiangError


def on_terminal(monkeypatch: pytest.MonkeyPatch, write: Callable[[], None], **environment: str) -> str:
    """What a real pseudo-terminal as our stderr gets to show."""
    ours, theirs = os.openpty()
    # Set here and not in a fixture: pytest sets its own stderr between a test's fixtures and its body.
    with os.fdopen(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        for name, value in {"TERM": "xterm", **environment}.items():
            patch.setenv(name, value)
        write()
    shown = b""
    with contextlib.suppress(OSError):  # EIO: all is read, and the other end is closed
        while block := os.read(ours, 4096):
            shown += block
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_a_step_is_its_verb_in_nine_columns_and_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.line("plan", "environment x")
    console.more("second line")
    assert capsys.readouterr() == ("", "plan     environment x\n         second line\n")


def test_a_chinese_verb_takes_the_same_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JINGXIANG_LANG", "zh")
    console.line("plan", "x")
    assert capsys.readouterr().err == "计划     x\n"


def test_a_chinese_character_takes_two_columns() -> None:
    assert (console.columns("abc"), console.columns("镜像"), console.columns("（a）")) == (3, 4, 5)
    assert (console.pad("镜像", 6), console.pad("too long", 3)) == ("镜像  ", "too long")


def test_data_alone_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.data("path/to/it")
    console.data_json({"名": [1]})
    out, err = capsys.readouterr()
    assert (out, err) == ('path/to/it\n{\n  "名": [\n    1\n  ]\n}\n', "")
    assert json.loads(out.removeprefix("path/to/it\n")) == {"名": [1]}


def test_an_error_is_one_line_and_each_hint_another(capsys: pytest.CaptureFixture[str]) -> None:
    console.fail(JingxiangError("it failed", hints=("do this", "or that")))
    assert capsys.readouterr() == ("", "error: it failed\ntry:   do this\n       or that\n")


def test_a_warning_says_that_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    console.warn("look out")
    assert capsys.readouterr() == ("", "warning: look out\n")


def test_a_pipe_gets_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    console.line("plan", "x")
    console.fail(JingxiangError("y"))
    assert "\033" not in capsys.readouterr().err


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_terminal(monkeypatch, lambda: console.line("plan", "x"))
    assert shown == "\033[1mplan     \033[0mx\n"
    shown = on_terminal(monkeypatch, lambda: console.fail(JingxiangError("y")))
    assert shown == "\033[31merror: \033[0my\n"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_colours_gets_none(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    assert on_terminal(monkeypatch, lambda: console.line("plan", "x"), **environment) == "plan     x\n"


def test_an_empty_no_color_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_terminal(monkeypatch, lambda: console.line("plan", "x"), NO_COLOR="")
    assert shown == "\033[1mplan     \033[0mx\n"


def test_a_table_is_aligned_and_has_no_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    console.table([("磁盘", "ok", "fast"), ("gpu", "problem", ""), ("", "", "-> fix")])
    assert capsys.readouterr() == ("", "磁盘  ok       fast\ngpu   problem\n               -> fix\n")


def test_an_empty_table_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.table([])
    assert capsys.readouterr() == ("", "")


def test_colours_do_not_shift_the_columns_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        console.table([(console.paint("ok", console.GREEN), "disk"), ("", "-> fix")])

    assert on_terminal(monkeypatch, write) == "\033[32mok\033[0m  disk\n    -> fix\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (20_480, "20.5 kB"),
        (200_000_000, "200 MB"),
        (1_500_000_000, "1.5 GB"),
        (3_000_000_000_000_000, "3000 TB"),
    ],
)
def test_bytes_are_said_in_powers_of_ten(count: int, text: str) -> None:
    assert console.size(count) == text


def test_steps_are_in_columns_after_their_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    console.lines([("base", "debian", "1 layer", "new"), ("weights", "模型", "12 layers", ""), ("app", "", "1", "new")])
    assert capsys.readouterr().err.splitlines() == [
        "base     debian  1 layer    new",
        "weights  模型    12 layers",
        "app              1          new",
    ]
    console.lines([])
    assert capsys.readouterr().err == ""
