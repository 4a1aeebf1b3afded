"""Which engine brings the environment's Python, and what it needs for that: micromamba, or a Python with py-rattler."""

from __future__ import annotations

import os
import platform
import secrets
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jingxiang import conda_locks, console, environments, locks, ordering, pip_client, process, samples, storage
from jingxiang.commands import wheels
from jingxiang.conda_locks import CondaLock, Micromamba
from jingxiang.conda_packages import CondaFiles
from jingxiang.digest import sha256_bytes, sha256_file, short
from jingxiang.engines.mamba import Mamba
from jingxiang.engines.rattler import Rattler
from jingxiang.engines.venv import Venv
from jingxiang.environments import Engine, Environment
from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.report import Unavailable
from jingxiang.language import tr
from jingxiang.locks import CondaPackage
from jingxiang.mirrors import MirrorSet
from jingxiang.places import Places
from jingxiang.store import Store
from jingxiang.wheels import Wheels

AUTO, MAMBA, RATTLER, VENV = "auto", "mamba", "rattler", "venv"
ENGINES = (MAMBA, RATTLER, VENV)  # the first that can work is taken
OWN = "JINGXIANG_MICROMAMBA"  # the path of a micromamba to use instead of the locked one
TOOLS = "conda"  # the lock of the Python packages that know conda's
SPEC = "i2v.yml"


class CannotRun(JingxiangError):
    """micromamba is there, but this machine does not run it."""

    def __init__(self, binary: Path, found: process.Finished) -> None:
        reason = found.tail or tr("exit code {code}", code=found.code)
        super().__init__(
            tr("{binary}: does not run here: {reason}", binary=binary, reason=reason),
            hints=("python3 tasks.py setup --engine rattler",),
        )


class NotMicromamba(JingxiangError):
    """The package that should hold the program holds another one, or none."""

    def __init__(self, package: CondaPackage) -> None:
        super().__init__(tr("{file}: does not hold the micromamba that is locked", file=package.file))


@dataclass(frozen=True)
class Choice:
    """An engine, why it was taken, and whether another one will do as well (`free`)."""

    name: str
    reason: str
    free: bool = False


def lock(places: Places) -> CondaLock:
    """The lock of the conda packages, if it is as it was made; raises `StaleLock` and its like."""
    found = conda_locks.read(places.locks / conda_locks.NAME)
    found.check_fresh(places.root / "envs" / SPEC)
    return found


def choose(
    places: Places,
    known: MirrorSet,
    wanted: str,
    planned: Callable[[CondaLock | None], Environment],
    *,
    mirror: str,
) -> tuple[Choice, Environment]:
    """The engine, and the environment that it would make (`planned`).

    `auto`: whichever has made one that is in place; else micromamba, if what it installs is here or some mirror of
    conda answers now; else this machine's own Python.
    """
    if wanted not in (AUTO, *ENGINES):
        raise UnknownName("engine", wanted, (AUTO, *ENGINES))
    if wanted != AUTO:
        return Choice(wanted, tr("as asked for")), planned(None if wanted == VENV else lock(places))
    plain = planned(None)
    if not (places.locks / conda_locks.NAME).exists():
        return Choice(VENV, tr("no lock of conda packages")), plain
    full = planned(lock(places))
    if environment := present(full, plain):
        stamp = environments.stamped(environment.folder)
        assert stamp
        return Choice(stamp.engine, tr("is in place")), environment
    assert full.conda
    if all(Store(places.store).has(each.sha256) for each in needed(places, full.conda.packages, program=True)):
        return Choice(MAMBA, tr("all that it installs is in the store"), free=True), full
    if answering := _answering(places, known, mirror, full.conda):
        return Choice(MAMBA, tr("conda: {mirror} answers", mirror=answering[0]), free=True), full
    return Choice(VENV, tr("no mirror of conda answers now")), plain


def present(*candidates: Environment) -> Environment | None:
    """The first that is in place."""
    return next((each for each in candidates if each.in_place), None)


def ready(places: Places, known: MirrorSet, choice: Choice, environment: Environment, *, mirror: str) -> Engine:
    """The engine, with all that it is made of; its packages are fetched later.

    Where micromamba cannot be had or run, and it was our choice, py-rattler takes its place. Raises `PythonMissing`,
    `CannotRun`, `NotMicromamba`, `Unavailable`.
    """
    if choice.name == VENV:
        engine = Venv(environment.version)
        engine.check()
        return engine
    assert environment.conda
    files = CondaFiles(Store(places.store), environment.conda.packages)
    if choice.name == MAMBA:
        try:
            wanted = artifacts(needed(places, (), program=True))
            wheels.fetch(places, known, wanted, mirror=mirror, pip=Path(sys.executable))
            return Mamba(micromamba(places), files)
        except (Unavailable, CannotRun, NotMicromamba) as error:
            if not choice.free:
                raise
            console.line("plan", tr("engine {name} instead: {reason}", name=RATTLER, reason=error.message))
    return Rattler(tools(places, known, mirror=mirror), files)


def _answering(places: Places, known: MirrorSet, mirror: str, conda: CondaLock) -> tuple[str, ...]:
    """The mirrors of conda that have what we need, fastest first."""
    settings = pip_client.settings(Path(sys.executable))
    wanted = samples.wanted((), settings["index-url"], conda.packages)
    return ordering.answering(known, "conda", mirror, home=places.home, wanted=wanted, settings=settings)


def artifacts(packages: Sequence[CondaPackage]) -> list[Artifact]:
    """What is to be fetched for packages. How long they are a lock of conda-lock does not say."""
    return [Artifact("conda", each.file, (each.sha256,), None, each.channel, path=each.path) for each in packages]


def needed(places: Places, packages: Sequence[CondaPackage], *, program: bool) -> list[CondaPackage]:
    """The packages, and (`program`) that of micromamba, unless the user has one."""
    if not program or os.environ.get(OWN):
        return list(packages)
    return [*packages, conda_locks.micromamba(places.locks).package]


def micromamba(places: Places) -> Path:
    """The program, taken out of its package in the store. Raises `CannotRun`, `NotMicromamba`."""
    own = os.environ.get(OWN)
    binary = Path(own).expanduser() if own else _unpacked(places, conda_locks.micromamba(places.locks))
    found = process.run([binary, "--version"], env={"HOME": os.devnull, "PATH": ""})
    if found.code:
        raise CannotRun(binary, found)
    return binary


def tools(places: Places, known: MirrorSet, *, mirror: str, name: str = TOOLS) -> Path:
    """The Python of a tool environment (py-rattler and conda-lock), made if it is not there."""
    found = locks.read(places.locks / f"{name}.txt")
    found.check_fresh(places.root / "envs" / f"{name}.in")
    version = ".".join(platform.python_version_tuple()[:2])
    folder = places.environments / f"tools-{name}-{version}-{short(found.digest)}"
    environment = Environment(folder, name, found, version=version)
    if not environment.in_place:
        console.line("plan", tr("tools of envs/{name}.in ({count} packages)", name=name, count=len(found.packages)))
        build = partial(_build, environment)
        wanted = wheels.Wanted(found, version, Path(sys.executable))
        wheels.install(places, known, wanted, build, mirror=mirror)
    return environment.python


def _build(environment: Environment, found: Wheels) -> None:
    environments.build(environment, Venv(sys.executable), found, show=False)


def _unpacked(places: Places, locked: Micromamba) -> Path:
    """In our own folder, and checked by its own hash every time."""
    binary = places.home / "tools" / f"micromamba-{locked.package.version}-{short(locked.binary_sha256)}"
    if binary.is_file() and sha256_file(binary) == locked.binary_sha256:
        return binary
    with tarfile.open(Store(places.store).blob(locked.package.sha256)) as archive:
        try:
            reading = archive.extractfile(locked.binary)
        except KeyError:
            reading = None
        body = reading.read() if reading else b""
    if sha256_bytes(body) != locked.binary_sha256:
        raise NotMicromamba(locked.package)
    with storage.writing(binary.parent, len(body)):
        binary.parent.mkdir(parents=True, exist_ok=True)
        part = binary.with_name(f"{binary.name}.{secrets.token_hex(4)}.part")  # others may be doing the same
        part.write_bytes(body)
        part.chmod(0o755)
        part.replace(binary)
    return binary
