"""`setup`: the app's environment, exactly as locked, with the build of PyTorch that this machine can run."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from jingxiang import console, gpu, locks, mirrors, profiles
from jingxiang.commands import wheels
from jingxiang.commands.wheels import Need
from jingxiang.engines import venv
from jingxiang.errors import UsageError
from jingxiang.language import tr
from jingxiang.mirrors import MirrorSet
from jingxiang.places import Places
from jingxiang.wheels import Wheels

DEVELOPMENT = "dev"  # the toolkit's own tests; no profile of the app
ENGINE = "venv"
LOCKED = "linux-x86_64"  # the only kind of machine that the locks are for


@dataclass(frozen=True)
class Plan:
    """What `setup --dry-run --json` says: the environment, and what would be fetched for it.

    `fetch_bytes`: of the files whose length the mirrors list; `fetch_unknown`: of how many they do not.
    """

    environment: str
    folder: str
    profile: str
    engine: str
    lock: str
    packages: int
    in_place: bool
    fetch_files: int = 0
    fetch_bytes: int = 0
    fetch_unknown: int = 0


def setup_app(
    places: Places, *, mirror: str, profile: str, dry_run: bool, fresh: bool = False, as_json: bool = False
) -> None:
    """The app's environment; its folder (or one JSON object) is what goes to stdout."""
    if dry_run:
        plan = _looked(places, mirror, profile)
    else:
        environment = setup(places, mirror=mirror, profile=profile, fresh=fresh)
        plan = _plan(environment, in_place=True)
    if as_json:
        console.data_json(asdict(plan))
    else:
        console.data(plan.folder)


def setup(places: Places, *, mirror: str, profile: str = profiles.AUTO, fresh: bool = False) -> venv.Environment:
    """Install the locked environment unless it is in place (`fresh`: in any case), and make `.env` lead to it."""
    known, environment = _chosen(places, mirror, profile)
    if environment.in_place and not fresh:
        console.line("ready", tr("{name} is in place", name=environment.name))
    else:
        venv.check_python()  # before gigabytes are fetched for it
        python, pip = venv.PYTHON, Path(sys.executable)
        build = partial(_build, environment, fresh=fresh)
        wheels.install(
            places, known, environment.lock, build, mirror=mirror, python=python, pip=pip,
            meanwhile=partial(venv.preparing, environment.lock),
        )  # fmt: skip
    if environment.profile != DEVELOPMENT:
        before = places.current.exists() and places.current.resolve()
        venv.point(places.current, environment)
        if before != environment.folder.resolve():
            console.line("ready", f".env -> {os.path.relpath(environment.folder, places.root)}")
    return environment


def planned(places: Places, profile: str) -> venv.Environment:
    """The environment that `setup` would make of the lock as it is now. Raises `StaleLock` and its like."""
    lock = locks.read(places.locks / f"{profile}.txt")
    lock.check_fresh(places.root / "envs" / f"{profile}.in")
    return venv.plan(places, profile, lock)


def _chosen(places: Places, mirror: str, profile: str) -> tuple[MirrorSet, venv.Environment]:
    """The mirrors and the environment; says what is going to be made, and why."""
    known = mirrors.chosen(places.root, mirror)
    here = f"{platform.system()}-{platform.machine()}".lower()
    if here != LOCKED:
        raise UsageError(tr("no lock for {here} yet; there is one for {locked}", here=here, locked=LOCKED))
    if profile == DEVELOPMENT:
        environment = planned(places, profile)
        if not environment.in_place:
            _say(environment)
        return known, environment
    profiles.check(profile)
    found = gpu.detect()
    choice = profiles.choose(profile, found)
    environment = planned(places, choice.profile.name)
    if not environment.in_place:
        _say(environment)
        title, reason = choice.profile.title, choice.reason
        console.more(tr("{card}: {title} build, {reason}", card=gpu.summary(found), title=title, reason=reason))
    if choice.warning:
        console.more(tr("{problem}: the app will not see it", problem=choice.warning))
    return known, environment


def _say(environment: venv.Environment) -> None:
    count = len(environment.lock.packages)
    text = tr("environment {name} ({count} packages), engine {engine}", name=environment.name, count=count,
              engine=ENGINE)  # fmt: skip
    console.line("plan", text)


def _looked(places: Places, mirror: str, profile: str) -> Plan:
    """What would be done. Only lists are fetched."""
    known, environment = _chosen(places, mirror, profile)
    if environment.in_place:
        console.line("ready", tr("{name} is in place", name=environment.name))
        return _plan(environment, in_place=True)
    need = wheels.look(
        places, known, environment.lock, mirror=mirror, python=venv.PYTHON, pip=Path(sys.executable)
    )  # fmt: skip
    return _plan(environment, in_place=False, need=need)


def _plan(environment: venv.Environment, *, in_place: bool, need: Need | None = None) -> Plan:
    need = need or Need()
    return Plan(
        environment.name, str(environment.folder), environment.profile, ENGINE, environment.lock.digest,
        len(environment.lock.packages), in_place, need.files, need.size_bytes, need.unknown,
    )  # fmt: skip


def _build(environment: venv.Environment, found: Wheels, *, fresh: bool) -> None:
    start = time.monotonic()
    files = venv.build(environment, found, show=sys.stderr.isatty(), fresh=fresh)
    seconds, count = time.monotonic() - start, len(found.digests)
    console.line("install", tr("{count} packages in {seconds:.1f} s, offline", count=count, seconds=seconds))
    if files:  # none: another process has made it meanwhile
        console.line("verify", tr("{count} files as locked", count=f"{files:,}"))
