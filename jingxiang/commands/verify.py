"""`verify`: whether the environment still is what its lock says, file by file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from jingxiang import console, environments, wheels
from jingxiang.commands import engines, setup
from jingxiang.environments import Environment
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.fetch import resolve
from jingxiang.language import tr
from jingxiang.places import Places
from jingxiang.store import Store
from jingxiang.wheels import Wheels


class NoEnvironment(UsageError):
    """`.env` leads nowhere, or to something that is no complete environment."""

    def __init__(self) -> None:
        super().__init__(tr("there is no complete environment"), hints=("python3 tasks.py setup",))


class OtherLock(JingxiangError):
    """The lock was renewed after the environment was made."""

    def __init__(self, name: str) -> None:
        text = tr("{name} was made from another lock than the one that is there now", name=name)
        super().__init__(text, hints=("python3 tasks.py setup",))


class Differs(JingxiangError):
    """Something is not as locked; it has been listed."""

    def __init__(self, name: str, count: int) -> None:
        text = tr("{name}: {count} differences from the lock", name=name, count=count)
        super().__init__(text, hints=("python3 tasks.py setup --fresh",))


def verify(places: Places, *, as_json: bool, prefix: str = "") -> None:
    """Differences on stdout, a line each (or one JSON object); raises `Differs`, `OtherLock`, `NoEnvironment`."""
    environment = current(places, prefix)
    found = environments.check(environment, _wheels(places, environment))
    if as_json:
        console.data_json({"environment": environment.name, **asdict(found)})
    else:
        for each in found.differences:
            console.data(f"{each.kind:8} {each.path}")
    if not found.wheels:
        text = tr("not all of its packages are in the store: compared with its own lists, bytecode left out")
        console.line("verify", text)
    if found.differences:
        raise Differs(environment.name, len(found.differences))
    console.line("verify", tr("{count} files as locked", count=f"{found.files:,}"))


def current(places: Places, prefix: str = "") -> Environment:
    """The environment that `.env` leads to, or that in `prefix`, if it is of the locks as they are now."""
    folder = Path(prefix).expanduser().absolute() if prefix else places.current
    stamp = environments.stamped(folder)
    if stamp is None:
        raise NoEnvironment
    conda = None if stamp.engine == engines.VENV else engines.lock(places)
    environment = setup.planned(places, stamp.profile, conda, folder=folder.resolve())
    if environment.digest != stamp.lock:
        raise OtherLock(folder.resolve().name)
    return environment


def _wheels(places: Places, environment: Environment) -> Wheels:
    store, target = Store(places.store), resolve.target(environment.version)
    packages = [package for package in environment.lock.packages if target.wants(package)]
    return wheels.known(store, packages, target) or Wheels(store, {})
