"""`setup`: the app's environment, exactly as locked."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

from jingxiang import console, gpu, locks, mirrors
from jingxiang.commands import wheels
from jingxiang.engines import venv
from jingxiang.language import tr
from jingxiang.places import Places
from jingxiang.wheels import Wheels

APP, DEVELOPMENT = "cpu", "dev"


def setup(places: Places, *, mirror: str, profile: str = APP) -> venv.Environment:
    """Install the locked environment unless it is in place, and make `.env` lead to it."""
    known = mirrors.load(places.root)
    known.check(mirror)
    lock = locks.read(places.locks / f"{profile}.txt")
    lock.check_fresh(places.root / "envs" / f"{profile}.in")
    environment = venv.plan(places, profile, lock)
    in_place = environment.in_place
    if in_place:
        console.line("ready", tr("{name} is in place", name=environment.name))
    else:
        text = tr("environment {name} ({count} packages), engine venv", name=environment.name, count=len(lock.packages))
        console.line("plan", text)
        found = gpu.detect()
        console.more(gpu.summary(found))
        if found.cards:
            console.more(tr("this version installs the CPU build; builds for CUDA are being added"))
        python, pip = venv.PYTHON, Path(sys.executable)
        wheels.install(places, known, lock, partial(_build, environment), mirror=mirror, python=python, pip=pip)
    if profile == APP:
        venv.point(places.current, environment)
        if not in_place:
            console.line("ready", f".env -> {os.path.relpath(environment.folder, places.root)}")
    return environment


def _build(environment: venv.Environment, found: Wheels) -> None:
    start = time.monotonic()
    venv.build(environment, found, show=sys.stderr.isatty())
    seconds = time.monotonic() - start
    count = len(found.digests)
    console.line("install", tr("{count} packages in {seconds:.0f} s, offline", count=count, seconds=seconds))


def setup_app(places: Places, *, mirror: str) -> None:
    """The app's environment; its folder is what goes to stdout."""
    console.data(str(setup(places, mirror=mirror).folder))
