"""The `venv` engine: a virtual environment of this machine's Python 3.11, filled by uv from a lock."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from jingxiang import bytecode, inventory, process, storage, uv_client
from jingxiang.digest import short
from jingxiang.errors import JingxiangError
from jingxiang.fetch import resolve
from jingxiang.folder_lock import locked
from jingxiang.inventory import Difference, Seen
from jingxiang.language import tr
from jingxiang.locks import Lock
from jingxiang.places import Places
from jingxiang.store import Store
from jingxiang.wheels import COMPILED, LINKS, SEEN, UNPACKED, Wheels, forget_derived

PYTHON = "3.11"
SITE = f"lib/python{PYTHON}/site-packages"
# What packages write beside themselves when they are used. gradio: a random number that its file names depend on.
WRITTEN_LATER = (f"{SITE}/gradio/hash_seed.txt",)
STAMP = "jingxiang.json"


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from; written last, so a folder that has it is complete.

    `files`: those that were there before any package, with their digests.
    """

    profile: str
    engine: str
    lock: str
    python: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Check:
    """What is in an environment, and what of it is not as locked.

    `wheels`: whether it was compared with the wheels; if they are not in the store, only with its own lists.
    """

    files: int
    differences: tuple[Difference, ...]
    wheels: bool


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
        """Whether it is complete, of this lock, and its Python is still where it was."""
        stamp = stamped(self.folder)
        return stamp is not None and stamp.lock == self.lock.digest and self.python.exists()


class NotAsLocked(JingxiangError):
    """What was installed is not what the wheels hold, twice: the disk or the memory is at fault."""

    def __init__(self, found: Check) -> None:
        first = found.differences[0]
        super().__init__(
            tr("{count} files are not as locked after the installation, {path} first",
               count=len(found.differences), path=first.path),
            hints=(tr("check the disk and the memory of this machine"),),
        )  # fmt: skip


class PythonMissing(JingxiangError):
    """This machine has no Python of the version that the environment is locked for."""

    exit_code = 2

    def __init__(self, python: str) -> None:
        super().__init__(
            tr("the app's environment is locked for Python {python}, which this machine does not have", python=python),
            hints=(f"apt-get install python{python}", f".venv/bin/uv python install {python}"),
        )


def stamped(folder: Path) -> Stamp | None:
    """What a folder was made from; None if it is no complete environment."""
    try:
        return Stamp(**json.loads((folder / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def check_python() -> None:
    """Raise `PythonMissing` unless this machine has a Python that an environment can be made from."""
    if uv_client.find_python(PYTHON).code:
        raise PythonMissing(PYTHON)


def plan(places: Places, profile: str, lock: Lock) -> Environment:
    return Environment(places.environments / f"i2v-{profile}-{short(lock.digest)}", profile, lock)


def build(environment: Environment, wheels: Wheels, *, show: bool, fresh: bool = False) -> int:
    """Install the lock beside its final place, without any network, and move it there when every file is as locked.

    Returns how many files that are; 0 if another process has made it meanwhile. `fresh`: from the wheels themselves,
    even if it is in place. Raises `NotAsLocked`, `PythonMissing`.
    """
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(environment.folder.parent):
        if environment.in_place and not fresh:
            return 0
        for again in (fresh, True):
            if again:  # what was unpacked for others may have been changed through their links
                forget_derived(wheels.store)
            with _scratch(environment.folder) as folder, _workshop(wheels.store, folder) as workshop:
                stamp = _fill(folder, environment, wheels, workshop, show=show)
                seen = Seen(workshop / SEEN)
                found = _compared(folder, stamp, environment.lock, wheels, workshop, seen)
                seen.keep()
                if not found.differences:
                    (folder / STAMP).write_text(json.dumps(asdict(stamp), indent=2) + "\n", encoding="utf-8")
                    shutil.rmtree(environment.folder, ignore_errors=True)
                    folder.rename(environment.folder)
                    return found.files
    raise NotAsLocked(found)


@contextlib.contextmanager
def preparing(lock: Lock, store: Store) -> Iterator[Callable[[Wheels], None]]:
    """For wheels that are here while others of the lock are still being fetched: unpack, compile and read them already,
    in an environment that is thrown away."""
    if not store.is_ours:  # nothing could be kept
        yield lambda wheels: None
        return
    with storage.writing(store.root):
        store.derived.mkdir(parents=True, exist_ok=True)
    lines = {canonicalize_name(package.name): package.line() for package in lock.packages}
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=store.derived) as scratch:
        folder, wanted, cache = Path(scratch) / "environment", Path(scratch) / "wanted.txt", store.derived / UNPACKED
        seen = Seen(store.derived / SEEN)
        python: list[bytecode.Python] = []

        def prepare(wheels: Wheels) -> None:
            if not python:
                uv_client.make_environment(folder, PYTHON, cache=cache)
                python.append(bytecode.ask(folder / "bin" / "python"))
            names = (parse_wheel_filename(name)[0] for name in wheels.digests)
            wanted.write_text("".join(f"{lines[name]}\n" for name in names), encoding="utf-8")
            with wheels.folder(store.derived / LINKS):
                uv_client.install(wanted, python[0].path, links=store.derived / LINKS, cache=cache, show=False)
                bytecode.install(python[0], folder / SITE, wheels, store.derived / COMPILED)
            inventory.looks(folder, seen)  # read now what would be read at the end
            seen.keep()

        yield prepare


def check(environment: Environment, wheels: Wheels) -> Check:
    """Compare an environment with the wheels of its lock, as far as these are in the store, and with its own lists."""
    stamp = stamped(environment.folder)
    assert stamp is not None, environment.folder
    with _workshop(wheels.store, environment.folder) as workshop:
        return _compared(environment.folder, stamp, environment.lock, wheels, workshop)


def point(link: Path, environment: Environment) -> None:
    """Make `.env` lead to the environment, in one step, unless it does."""
    target = os.path.relpath(environment.folder, link.parent)
    if link.is_symlink() and str(link.readlink()) == target:
        return
    part = link.with_name(f"{link.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def _fill(folder: Path, environment: Environment, wheels: Wheels, workshop: Path, *, show: bool) -> Stamp:
    """An environment in an empty folder, with everything that the lock names, and its bytecode.

    uv unpacks each wheel once into its cache and links the files from there. It knows a wheel again by where it found
    it, so that is always the same place.
    """
    links, cache, lock = workshop / LINKS, workshop / UNPACKED, environment.lock
    check_python()
    made = uv_client.make_environment(folder, PYTHON, cache=cache)
    if made.code:
        raise process.ProcessFailed("uv venv", made)
    python = bytecode.ask(folder / "bin" / "python")
    stamp = Stamp(environment.profile, "venv", lock.digest, python.version, inventory.looks(folder))
    with wheels.folder(links):
        done = uv_client.install(lock.path, python.path, links=links, cache=cache, show=show)
        if done.code:
            raise process.ProcessFailed("uv pip install", done)
        bytecode.install(python, folder / SITE, wheels, workshop / COMPILED)
    (folder / ".lock").unlink(missing_ok=True)  # uv's own, for as long as it works there
    return stamp


def _compared(
    folder: Path, stamp: Stamp, lock: Lock, wheels: Wheels, workshop: Path, seen: Seen | None = None
) -> Check:
    there = {name: sha256 for name, sha256 in wheels.digests.items() if wheels.store.has(sha256)}
    python = bytecode.ask(folder / "bin" / "python")
    bytecode.prepare(python, Wheels(wheels.store, there), workshop / COMPILED)
    compiled = bytecode.digests(python, wheels, workshop / COMPILED)
    files = map(wheels.store.blob, there.values())
    wanted = inventory.expected(SITE, stamp.files, folder, files, compiled)
    for path in WRITTEN_LATER:
        wanted[path] = {inventory.OPTIONAL}
    complete = bool(there) and len(there) == len(wheels.digests)
    if not complete:
        inventory.allow_bytecode(wanted, python.tag.rpartition("-")[0])
    count, wrong = inventory.differences(folder, wanted, ignored=(STAMP,), seen=seen)
    return Check(count, (*_packages(folder, lock), *wrong), complete)


def _packages(folder: Path, lock: Lock) -> Iterator[Difference]:
    """Packages that are missing, or there without being locked."""
    target = resolve.target(PYTHON)
    locked = {(str(canonicalize_name(each.name)), each.version) for each in lock.packages if target.wants(each)}
    found = {(each.name, each.version) for each in inventory.packages(folder / SITE)}
    for name, version in sorted(locked - found):
        yield Difference(f"{name}=={version}", inventory.MISSING)
    for name, version in sorted(found - locked):
        yield Difference(f"{name}=={version}", inventory.ADDED)


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
