"""`test` and `check`: everything that must hold before a commit, in an environment that is made for it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jingxiang import console, process
from jingxiang.commands.setup import DEVELOPMENT, setup
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.places import Places

SLOWEST = "--durations=25"  # so that whoever wants CI to be faster knows where to begin
# A file stays on one core: its tests share what they start.
# One process more than cores: many tests wait for servers that do not answer.
FAST = ("-m", "not e2e", "--numprocesses", str(len(os.sched_getaffinity(0)) + 1), "--dist", "loadfile")


class CheckFailed(JingxiangError):
    """One of the checks found something; it has said what."""

    def __init__(self, name: str) -> None:
        super().__init__(tr("{name} found something to put right", name=name))


def test(places: Places, *, mirror: str, match: str) -> NoReturn:
    """All tests; or those whose name matches. The slowest are named."""
    options = [SLOWEST, *(["-k", match] if match else [])]
    _pytest(places, setup(places, mirror=mirror, profile=DEVELOPMENT).python, options)


def check(places: Places, *, mirror: str) -> NoReturn:
    """Format, lint, types, and the tests that take seconds."""
    python = setup(places, mirror=mirror, profile=DEVELOPMENT).python
    os.chdir(places.root)
    for name, words in (
        ("ruff format", ["ruff", "format", "--check", "-q"]),
        ("ruff", ["ruff", "check", "-q"]),
        ("mypy", ["mypy"]),
    ):
        start = time.monotonic()
        if process.run([python, "-m", *words], show=True).code:
            raise CheckFailed(name)
        console.line("check", f"{name}  {time.monotonic() - start:.1f} s")
    _pytest(places, python, FAST)


def _pytest(places: Places, python: Path, options: Sequence[str]) -> NoReturn:
    os.chdir(places.root)
    process.replace([python, "-m", "pytest", *options])
