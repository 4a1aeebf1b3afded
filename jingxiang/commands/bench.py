"""`bench`: figures with their peers, measured in one run by a runner in ci/bench."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from jingxiang import process
from jingxiang.commands.setup import DEVELOPMENT, setup
from jingxiang.errors import UnknownName
from jingxiang.places import Places

HELPERS = ("peers", "report")  # modules there that are no benches


def bench(places: Places, *, name: str, options: Sequence[str]) -> NoReturn:
    """Run one bench: a table on stderr, with `--json` among the options also the object on stdout."""
    modules = (path.stem for path in (places.root / "ci" / "bench").glob("[a-z]*.py"))
    runners = sorted(name for name in modules if name not in HELPERS)
    if name not in runners:
        raise UnknownName("bench", name, runners, where="ci/bench")
    environment = setup(places, mirror="auto", profile=DEVELOPMENT)
    os.chdir(places.root)
    process.replace([environment.python, "-m", f"ci.bench.{name}", *options])
