"""`bench`: figures with their peers, measured in one run by a runner in ci/bench."""

from __future__ import annotations

import os
from typing import NoReturn

from jingxiang import process
from jingxiang.commands.setup import DEVELOPMENT, setup
from jingxiang.errors import UnknownName
from jingxiang.places import Places

HELPERS = ("peers", "report")  # modules there that are no benches


def bench(places: Places, *, name: str, as_json: bool) -> NoReturn:
    """Run one bench: a table on stderr, with `as_json` also the object on stdout."""
    modules = (path.stem for path in (places.root / "ci" / "bench").glob("[a-z]*.py"))
    runners = sorted(name for name in modules if name not in HELPERS)
    if name not in runners:
        raise UnknownName("bench", name, runners, where="ci/bench")
    environment = setup(places, mirror="auto", profile=DEVELOPMENT)
    os.chdir(places.root)
    process.replace([environment.python, "-m", f"ci.bench.{name}", *(["--json"] if as_json else [])])
