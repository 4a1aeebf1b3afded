"""`setup`: the app's environment, exactly as locked, with the build of PyTorch that this machine can run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from jingxiang import console, environments, gpu, locks, mirrors, profiles
from jingxiang.commands import engines, wheels
from jingxiang.commands.engines import Choice
from jingxiang.commands.wheels import Need, Wanted
from jingxiang.conda_locks import CondaLock
from jingxiang.environments import Engine, Environment
from jingxiang.errors import UsageError
from jingxiang.fetch.artifacts import Artifact
from jingxiang.language import tr
from jingxiang.mirrors import MirrorSet
from jingxiang.places import Places
from jingxiang.wheels import Wheels

DEVELOPMENT = "dev"  # the toolkit's own tests; no profile of the app
LONGEST_PATH = 255  # bytes; what conda-build makes room for
LOCKED = "linux-x86_64"  # the only kind of machine that the locks are for


@dataclass(frozen=True)
class Plan:
    """What `setup --dry-run --json` says: the environment, and what would be fetched for it.

    `fetch_bytes`: of the files whose length the mirrors list; `fetch_unknown`: of how many they do not; `store_bytes`:
    of those that are in the store; `install_bytes`: about how much room the environment takes on a disk of which
    `free_bytes` are free.
    """

    environment: str
    folder: str
    profile: str
    engine: str
    engine_reason: str
    lock: str
    packages: int
    in_place: bool
    fetch_files: int = 0
    fetch_bytes: int = 0
    fetch_unknown: int = 0
    store_bytes: int = 0
    install_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True)
class Chosen:
    """The environment that is going to be made, and by which engine."""

    known: MirrorSet
    environment: Environment
    choice: Choice

    @property
    def in_place(self) -> bool:
        """Whether it is there, made by this engine, or by any where that is free."""
        stamp = environments.stamped(self.environment.folder)
        same = stamp is not None and (self.choice.free or stamp.engine == self.choice.name)
        return same and self.environment.in_place


class NotEmpty(UsageError):
    """A folder with something else in it, which would be lost."""

    def __init__(self, folder: Path) -> None:
        super().__init__(tr("{folder}: is not empty and no environment; choose another folder", folder=folder))


class NotWritable(UsageError):
    """A folder in which no environment can be made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(tr("{folder}: cannot be written, so no environment can be made in it", folder=folder))


class PathTooLong(UsageError):
    """Conda packages carry the path of their environment in room of a fixed length."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            tr("{folder}: has {count} bytes; conda packages can carry a path of at most {most}", folder=folder,
               count=len(os.fsencode(folder)), most=LONGEST_PATH),
            hints=(tr("choose a shorter --prefix or JINGXIANG_HOME, or --engine venv"),),
        )  # fmt: skip


def setup_app(
    places: Places,
    *,
    mirror: str,
    profile: str,
    engine: str = engines.AUTO,
    prefix: str = "",
    dry_run: bool = False,
    fresh: bool = False,
    as_json: bool = False,
) -> None:
    """The app's environment; its folder (or one JSON object) is what goes to stdout."""
    if dry_run:
        plan = _looked(places, mirror, profile, engine, prefix)
    else:
        chosen = _chosen(places, mirror, profile, engine, prefix)
        _made(places, chosen, mirror, fresh=fresh)
        plan = _plan(chosen, in_place=True)
    if as_json:
        console.data_json(asdict(plan))
    else:
        console.data(plan.folder)


def setup(
    places: Places,
    *,
    mirror: str,
    profile: str = profiles.AUTO,
    engine: str = engines.AUTO,
    prefix: str = "",
    fresh: bool = False,
) -> Environment:
    """Install the locked environment unless it is in place (`fresh`: in any case), and make `.env` lead to it.

    `prefix`: a folder of the user's own for it; `.env` stays as it is then.
    """
    chosen = _chosen(places, mirror, profile, engine, prefix)
    _made(places, chosen, mirror, fresh=fresh)
    return chosen.environment


def for_image(
    places: Places, *, mirror: str, profile: str, engine: str, prefix: Path, check: Callable[[Environment], object]
) -> Environment:
    """The same for an image in which the environment's folder is `prefix`; made apart from this machine's own.

    `check` may refuse it before anything is fetched.
    """
    chosen = _chosen(places, mirror, profile, engine, elsewhere=prefix)
    check(chosen.environment)
    _made(places, chosen, mirror, fresh=False)
    return chosen.environment


def planned_for_image(places: Places, *, mirror: str, profile: str, engine: str, prefix: Path) -> Chosen:
    """What `for_image` would make; nothing is fetched."""
    return _chosen(places, mirror, profile, engine, elsewhere=prefix)


def planned(
    places: Places,
    profile: str,
    conda: CondaLock | None = None,
    *,
    folder: Path | None = None,
    elsewhere: Path | None = None,
) -> Environment:
    """The environment that `setup` would make of the locks as they are now. Raises `StaleLock` and its like."""
    lock = locks.read(places.locks / f"{profile}.txt")
    lock.check_fresh(places.root / "envs" / f"{profile}.in")
    return environments.plan(places, profile, lock, conda, folder=folder, elsewhere=elsewhere)


def _chosen(
    places: Places, mirror: str, profile: str, engine: str, prefix: str = "", *, elsewhere: Path | None = None
) -> Chosen:
    """What is going to be made; says it, and why."""
    known = mirrors.chosen(places.root, mirror)
    here = f"{platform.system()}-{platform.machine()}".lower()
    if here != LOCKED:
        raise UsageError(tr("no lock for {here} yet; there is one for {locked}", here=here, locked=LOCKED))
    folder = Path(prefix).expanduser().absolute() if prefix else None
    if folder and folder.exists() and not (folder.is_dir() and _replaceable(folder)):
        raise NotEmpty(folder)
    if profile == DEVELOPMENT:
        chosen = Chosen(known, planned(places, profile), Choice(engines.VENV, tr("the toolkit's own tests")))
        if not chosen.in_place:
            _say(chosen)
        return chosen
    profiles.check(profile)
    found = gpu.detect()
    build = profiles.choose(profile, found)
    choice, environment = engines.choose(
        places, known, engine,
        lambda conda: planned(places, build.profile.name, conda, folder=folder, elsewhere=elsewhere), mirror=mirror,
    )  # fmt: skip
    if environment.conda and len(os.fsencode(environment.prefix)) > LONGEST_PATH:
        raise PathTooLong(environment.prefix)
    chosen = Chosen(known, environment, choice)
    if not chosen.in_place:
        _say(chosen)
        title, reason = build.profile.title, build.reason
        console.more(tr("{card}: {title} build, {reason}", card=gpu.summary(found), title=title, reason=reason))
    if build.warning:
        console.more(tr("{problem}: the app will not see it", problem=build.warning))
    return chosen


def _made(places: Places, chosen: Chosen, mirror: str, *, fresh: bool) -> None:
    environment, known = chosen.environment, chosen.known
    if chosen.in_place and not fresh:
        if not environment.elsewhere:
            console.line("ready", tr("{name} is in place", name=environment.name))
    else:
        _writable(environment.folder)
        engine = engines.ready(places, known, chosen.choice, environment, mirror=mirror)  # before gigabytes are fetched
        wheels.install(
            places, known, _wanted(environment, _also(environment)), partial(_build, environment, engine, fresh=fresh),
            mirror=mirror, meanwhile=partial(environments.preparing, environment), planned=partial(_say_room, places),
        )  # fmt: skip
    if environment.profile == DEVELOPMENT or environment.elsewhere:
        return
    if environment.folder.parent != places.environments:
        console.line("ready", str(environment.folder))
        return
    before = places.current.exists() and places.current.resolve()
    environments.point(places.current, environment)
    if before != environment.folder.resolve():
        console.line("ready", f".env -> {os.path.relpath(environment.folder, places.root)}")


def _looked(places: Places, mirror: str, profile: str, engine: str, prefix: str) -> Plan:
    """What would be done. Only lists are fetched."""
    chosen = _chosen(places, mirror, profile, engine, prefix)
    if chosen.in_place:
        console.line("ready", tr("{name} is in place", name=chosen.environment.name))
        return _plan(chosen, in_place=True)
    also = _also(chosen.environment)
    if chosen.choice.name == engines.MAMBA:
        also += engines.artifacts(engines.needed(places, (), program=True))
    need = wheels.look(places, chosen.known, _wanted(chosen.environment, also), mirror=mirror)
    _say_room(places, need)
    return _plan(chosen, in_place=False, need=need)


def _wanted(environment: Environment, also: Sequence[Artifact]) -> Wanted:
    return Wanted(environment.lock, environment.version, Path(sys.executable), also)


def _also(environment: Environment) -> list[Artifact]:
    """What is fetched beside the Python packages."""
    return engines.artifacts(environment.conda.packages) if environment.conda else []


def _replaceable(folder: Path) -> bool:
    return not any(folder.iterdir()) or environments.stamped(folder) is not None


def _writable(folder: Path) -> None:
    """Say it now if an environment cannot be made there: it is made beside its place."""
    there = next(each for each in folder.parents if each.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise NotWritable(there)


def _say(chosen: Chosen) -> None:
    environment, choice = chosen.environment, chosen.choice
    count = len(environment.lock.packages)
    packages = f"{len(environment.conda.packages)} + {count}" if environment.conda else str(count)
    text = tr("environment {name} ({count} packages), engine {engine}", name=environment.name, count=packages,
              engine=choice.name)  # fmt: skip
    console.line("plan", f"{text}: {choice.reason}")


def _say_room(places: Places, need: Need) -> None:
    size, free = console.size(need.installed_bytes), console.size(_free_bytes(places.environments))
    if need.unknown:
        console.more(tr("{free} free", free=free))
    else:
        console.more(tr("about {size} when installed, {free} free", size=size, free=free))


def _free_bytes(folder: Path) -> int:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(there).free


def _plan(chosen: Chosen, *, in_place: bool, need: Need | None = None) -> Plan:
    need, environment, conda = need or Need(), chosen.environment, chosen.environment.conda
    stamp = environments.stamped(environment.folder)
    return Plan(
        environment.name, str(environment.folder), environment.profile, stamp.engine if stamp and in_place else
        chosen.choice.name, chosen.choice.reason, environment.digest,
        len(environment.lock.packages) + (len(conda.packages) if conda else 0), in_place, need.files, need.size_bytes,
        need.unknown, need.here_bytes, need.installed_bytes, _free_bytes(environment.folder),
    )  # fmt: skip


def _build(environment: Environment, engine: Engine, found: Wheels, *, fresh: bool) -> None:
    start = time.monotonic()
    files = environments.build(environment, engine, found, show=sys.stderr.isatty(), fresh=fresh)
    count = len(found.digests) + (len(engine.files.packages) if engine.files else 0)
    seconds = time.monotonic() - start
    console.line("install", tr("{count} packages in {seconds:.1f} s, offline", count=count, seconds=seconds))
    if files:  # none: another process has made it meanwhile
        console.line("verify", tr("{count} files as locked", count=f"{files:,}"))
