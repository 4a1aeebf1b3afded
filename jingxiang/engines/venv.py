"""The `venv` engine: a virtual environment of this machine's Python 3.11, filled by uv from a lock."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from jingxiang import bytecode, process, uv_client
from jingxiang.digest import short
from jingxiang.errors import JingxiangError
from jingxiang.folder_lock import locked
from jingxiang.language import tr
from jingxiang.locks import Lock
from jingxiang.places import Places
from jingxiang.store import Store
from jingxiang.wheels import COMPILED, LINKS, UNPACKED, Wheels

PYTHON = "3.11"
STAMP = "jingxiang.json"


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from; written last, so a folder that has it is complete."""

    profile: str
    engine: str
    lock: str
    python: str


@dataclass(frozen=True)
class Environment:
    """One installed lock: `environments/i2v-cpu-3f9c21ab`."""

    folder: Path
    profile: str
    lock: Lock

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def in_place(self) -> bool:
        """Whether it is complete and its Python still starts from where it was."""
        return (self.folder / STAMP).exists() and self.python.exists()


class PythonMissing(JingxiangError):
    """This machine has no Python of the version that the environment is locked for."""

    exit_code = 2

    def __init__(self, python: str) -> None:
        super().__init__(
            tr("the app's environment is locked for Python {python}, which this machine does not have", python=python),
            hints=(f"apt-get install python{python}", f".venv/bin/uv python install {python}"),
        )


def plan(places: Places, profile: str, lock: Lock) -> Environment:
    return Environment(places.environments / f"i2v-{profile}-{short(lock.digest)}", profile, lock)


def build(environment: Environment, wheels: Wheels, *, show: bool) -> None:
    """Install the lock beside its final place, without any network, and move it there when it is complete."""
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(environment.folder.parent), _scratch(environment.folder) as folder:
        if environment.in_place:  # made by another process while we waited
            return
        with _workshop(wheels.store, folder) as workshop:
            python = _fill(folder, environment.lock, wheels, workshop, show=show)
        stamp = Stamp(environment.profile, "venv", environment.lock.digest, python.version)
        (folder / STAMP).write_text(json.dumps(asdict(stamp), indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(environment.folder, ignore_errors=True)  # a folder whose Python has gone
        folder.rename(environment.folder)


def point(link: Path, environment: Environment) -> None:
    """Make `.env` lead to the environment, in one step, unless it does."""
    target = os.path.relpath(environment.folder, link.parent)
    if link.is_symlink() and str(link.readlink()) == target:
        return
    part = link.with_name(f"{link.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def _fill(folder: Path, lock: Lock, wheels: Wheels, workshop: Path, *, show: bool) -> bytecode.Python:
    """An environment in an empty folder, with everything that the lock names, and its bytecode.

    uv unpacks each wheel once into its cache and links the files from there. It knows a wheel again by where it found
    it, so that is always the same place.
    """
    links, cache = workshop / LINKS, workshop / UNPACKED
    made = uv_client.make_environment(folder, PYTHON, cache=cache)
    if made.code:
        missing = "No interpreter found" in made.stderr
        raise PythonMissing(PYTHON) if missing else process.ProcessFailed("uv venv", made)
    path = folder / "bin" / "python"
    with wheels.folder(links):
        done = uv_client.install(lock.path, path, links=links, cache=cache, show=show)
        if done.code:
            raise process.ProcessFailed("uv pip install", done)
        python = bytecode.ask(path)
        bytecode.install(python, site_packages(folder), wheels, workshop / COMPILED)
    return python


def site_packages(folder: Path) -> Path:
    """Where the packages of an environment are."""
    return folder / "lib" / f"python{PYTHON}" / "site-packages"


@contextlib.contextmanager
def _workshop(store: Store, folder: Path) -> Iterator[Path]:
    """Where things are made of wheels: kept in the store for the next environment, where we may write there."""
    if store.is_ours:
        yield store.derived
        return
    beside = folder.with_name(f"{folder.name}-derived")
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _scratch(final: Path) -> Iterator[Path]:
    """A folder beside the final one, gone afterwards unless it was moved away. Left-overs of killed runs go first."""
    for old in final.parent.glob(f"{final.name}.part-*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{final.name}.part-", dir=final.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
