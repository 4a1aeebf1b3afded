"""jingxiang.program: how it ends when it is ended; its errors and exit codes are in tests/e2e/test_bare.py"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Undoes what it has begun, which takes a while, and says so; a signal in the middle of that must change nothing.
CODE = """
import signal, sys, time
from jingxiang.program import ends_as_interrupted
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
ends_as_interrupted()
try:
    print("begun", flush=True)
    sys.stdin.readline()
finally:
    print("undoing", file=sys.stderr, flush=True)
    print("undoing", flush=True)
    sys.stdin.readline()
    print("undone", flush=True)
"""


def begun(*words: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_ended_undoes_what_is_half_done_however_often_that_is_said(number: signal.Signals) -> None:
    with begun() as process:
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "undoing\n"
        process.send_signal(number)
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate("\n", timeout=30)
    assert (said, process.returncode) == ("undone\n", 128 + number)


def test_what_nohup_started_goes_on_when_the_terminal_is_closed() -> None:
    with begun("nohup") as process:
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate("\n\n", timeout=30)
    assert (said, process.returncode) == ("undoing\nundone\n", 0)


def test_a_terminal_that_is_gone_keeps_nobody_from_undoing() -> None:
    ours, theirs = pty.openpty()
    with begun(stderr=theirs) as process:
        os.close(theirs)
        os.close(ours)  # from now on writing to it is an error
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate("\n", timeout=30)
    assert (said, process.returncode) == ("undoing\nundone\n", 129)
