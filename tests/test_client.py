"""jingxiang.remotes.client: programs beside ours, in a Python of their own"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """\
import contextlib, os, signal, sys
sys.path.append(sys.argv[1])
from jingxiang.remotes.client import Problem, main, say, tell, undisturbed

@contextlib.contextmanager
def prepared(job):
    try:
        yield (job.pop("word"),)
    finally:
        tell("over")

def act(word, *, ends):
    print("noise")
    say("begun", word=word)
    if ends == "problem":
        raise Problem("full", text="no room")
    if ends == "known":
        raise KeyError("known")
    if ends == "signal":
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            say("whole")
        say("never")

main({"act": act}, prepared, lambda error: Problem("told", text="of it") if isinstance(error, KeyError) else None)
"""


@pytest.mark.parametrize(("ends", "code", "events"), [
    ("", 0, []),
    ("problem", 1, [{"event": "error", "kind": "full", "text": "no room"}]),
    ("known", 1, [{"event": "error", "kind": "told", "text": "of it"}]),
])  # fmt: skip
def test_what_happens_is_an_event_and_nothing_else_is_on_stdout(
    ends: str, code: int, events: list[dict[str, str]]
) -> None:
    found = run(ends)
    assert (found.returncode, found.stderr) == (code, "noise\n")
    assert said(found) == [{"event": "begun", "word": "hello"}, {"event": "over"}, *events]


def test_whoever_ends_it_waits_for_what_is_not_to_be_disturbed() -> None:
    found = run("signal")
    assert found.returncode == 128 + signal.SIGTERM
    assert [each["event"] for each in said(found)] == ["begun", "whole", "over"]


def run(ends: str) -> subprocess.CompletedProcess[str]:
    job = json.dumps({"action": "act", "word": "hello", "ends": ends})
    argv = [sys.executable, "-c", PROGRAM, str(ROOT)]
    return subprocess.run(argv, input=job, capture_output=True, text=True, check=False)


def said(found: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in found.stdout.splitlines()]
