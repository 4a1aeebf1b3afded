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

from jingxiang import process, uv_client
from jingxiang.digest import short
from jingxiang.errors import JingxiangError
from jingxiang.folder_lock import locked
from jingxiang.language import tr
from jingxiang.locks import Lock
from jingxiang.places import Places
from jingxiang.wheels import Wheels

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
        # uv unpacks wheels into its cache and links them from there: beside the environment, they are there once.
        cache = folder.with_name(f"{folder.name}-uv")
        try:
            _fill(folder, environment.lock, wheels, cache, show=show)
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        version = process.check([folder / "bin/python", "-V"], name="python").stdout.split()[-1]
        stamp = Stamp(environment.profile, "venv", environment.lock.digest, version)
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


def _fill(folder: Path, lock: Lock, wheels: Wheels, cache: Path, *, show: bool) -> None:
    """An environment in an empty folder, with everything that the lock names."""
    made = uv_client.make_environment(folder, PYTHON, cache=cache)
    if made.code:
        missing = "No interpreter found" in made.stderr
        raise PythonMissing(PYTHON) if missing else process.ProcessFailed("uv venv", made)
    with wheels.folder() as links:
        done = uv_client.install(lock.path, folder / "bin/python", links=links, cache=cache, show=show)
    if done.code:
        raise process.ProcessFailed("uv pip install", done)


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
