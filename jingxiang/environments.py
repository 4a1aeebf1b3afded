"""Environments: a Python that an engine brings, filled by uv from a lock, and compared with both, file by file."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from packaging.utils import canonicalize_name, parse_wheel_filename

from jingxiang import bytecode, inventory, process, storage, uv_client
from jingxiang.conda_locks import CondaLock
from jingxiang.conda_packages import CondaFiles
from jingxiang.digest import canonical_json, sha256_bytes, sha256_file, short
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
# What packages write beside themselves when they are used. gradio: a random number that its file names depend on.
WRITTEN_LATER = ("gradio/hash_seed.txt",)
STAMP = "jingxiang.json"
UV_NOTE = "uv_cache.json"


class Engine(Protocol):
    """Brings the Python that everything else is installed beside."""

    @property
    def name(self) -> str: ...

    @property
    def files(self) -> CondaFiles | None:
        """The conda packages that it installs; None if it does without."""

    def make(self, folder: Path, final: Path, workshop: Path) -> None:
        """Fill an empty folder, which will be renamed to `final`. `workshop`: for what the next environment can use.

        Never asks a network. Raises `ProcessFailed`.
        """


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from; written last, so a folder that has it is complete.

    `python`: its version; `tag`: what its bytecode is called; `files`: those that were there before any Python package,
    with their digests.
    """

    profile: str
    engine: str
    lock: str
    python: str
    tag: str
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
    """One installed lock: `environments/i2v-cpu-3f9c21ab`. `conda`: the lock of what came from conda, if that is where
    its Python is from; `version`: of its Python; `elsewhere`: the path that it is going to be used at, in an image."""

    folder: Path
    profile: str
    lock: Lock
    conda: CondaLock | None = None
    version: str = PYTHON
    elsewhere: Path | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def prefix(self) -> Path:
        """What its own files call its folder."""
        return self.elsewhere or self.folder

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> str:
        """Where its packages are, below the folder."""
        return f"lib/python{self.version}/site-packages"

    @property
    def digest(self) -> str:
        return digest(self.lock, self.conda)

    @property
    def in_place(self) -> bool:
        """Whether it is complete, of this lock, and its Python is still where it was."""
        stamp = stamped(self.folder)
        return stamp is not None and stamp.lock == self.digest and self.python.exists()


class NotAsLocked(JingxiangError):
    """What was installed is not what the wheels hold, twice: the disk or the memory is at fault."""

    def __init__(self, found: Check) -> None:
        first = found.differences[0]
        super().__init__(
            tr("{count} files are not as locked after the installation, {path} first",
               count=len(found.differences), path=first.path),
            hints=(tr("check the disk and the memory of this machine"),),
        )  # fmt: skip


def stamped(folder: Path) -> Stamp | None:
    """What a folder was made from; None if it is no complete environment."""
    try:
        return Stamp(**json.loads((folder / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def digest(lock: Lock, conda: CondaLock | None) -> str:
    """Of all that an environment is made from."""
    return sha256_bytes(canonical_json([lock.digest, conda.digest])) if conda else lock.digest


def plan(
    places: Places,
    profile: str,
    lock: Lock,
    conda: CondaLock | None = None,
    *,
    folder: Path | None = None,
    elsewhere: Path | None = None,
) -> Environment:
    """`folder`: where it should be, if not under its own name among the others; `elsewhere`: see `Environment`."""
    name = f"i2v-{profile}-{short(digest(lock, conda))}"
    among = places.images / "environments" if elsewhere else places.environments
    return Environment(folder or among / name, profile, lock, conda, elsewhere=elsewhere)


def build(environment: Environment, engine: Engine, wheels: Wheels, *, show: bool, fresh: bool = False) -> int:
    """Install the lock beside its final place, without any network, and move it there when every file is as locked.

    Returns how many files that are; 0 if another process has made it meanwhile. `fresh`: from the packages themselves,
    even if it is in place. Raises `NotAsLocked`, `ProcessFailed`, `StoreClosed` where nothing may be written.
    """
    with storage.writing(environment.folder.parent):
        environment.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(environment.folder.parent):
        if environment.in_place and not fresh:
            return 0
        for again in (fresh, True):
            if again:  # what was unpacked for others may have been changed through their links
                forget_derived(wheels.store)
            with _scratch(environment.folder) as folder, _workshop(wheels.store, folder) as workshop:
                seen = Seen(workshop / SEEN)
                stamp = _fill(folder, environment, engine, wheels, workshop, seen, show=show)
                conda = _of_conda(environment, engine.files)
                found = _compared(folder, stamp, environment, wheels, conda, workshop, seen)
                seen.keep()
                if not found.differences:
                    (folder / STAMP).write_text(json.dumps(asdict(stamp), indent=2) + "\n", encoding="utf-8")
                    shutil.rmtree(environment.folder, ignore_errors=True)
                    folder.rename(environment.folder)
                    return found.files
    raise NotAsLocked(found)


@contextlib.contextmanager
def preparing(environment: Environment, store: Store) -> Iterator[Callable[[Wheels], None]]:
    """For wheels that are here while others of the lock are still being fetched: unpack, compile and read them already,
    in an environment that is thrown away."""
    if not store.is_ours:  # nothing could be kept
        yield lambda wheels: None
        return
    with storage.writing(store.root):
        store.derived.mkdir(parents=True, exist_ok=True)
    lines = {canonicalize_name(package.name): package.line() for package in environment.lock.packages}
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=store.derived) as scratch:
        folder, wanted, cache = Path(scratch) / "environment", Path(scratch) / "wanted.txt", store.derived / UNPACKED
        seen = Seen(store.derived / SEEN)
        python: list[bytecode.Python] = []

        def prepare(wheels: Wheels) -> None:
            if not python:
                uv_client.make_environment(folder, environment.version, cache=cache)
                python.append(bytecode.ask(folder / "bin" / "python"))
            names = (parse_wheel_filename(name)[0] for name in wheels.digests)
            wanted.write_text("".join(f"{lines[name]}\n" for name in names), encoding="utf-8")
            with wheels.folder(store.derived / LINKS), ThreadPoolExecutor(1) as pool:
                compiling = pool.submit(bytecode.prepare, python[0], wheels, store.derived / COMPILED)
                uv_client.install(wanted, python[0].path, links=store.derived / LINKS, cache=cache, show=False)
                compiling.result()
                bytecode.install(python[0], folder / environment.site, wheels, store.derived / COMPILED)
            inventory.looks(folder, seen)  # read now what would be read at the end
            seen.keep()

        yield prepare


def check(environment: Environment, wheels: Wheels) -> Check:
    """Compare an environment with the packages of its lock, as far as these are in the store, and its own lists.

    Its Python is started only to compile what nobody has compiled yet, and only if it is what it should be.
    """
    stamp = stamped(environment.folder)
    assert stamp is not None, environment.folder
    files = CondaFiles(wheels.store, environment.conda.packages) if environment.conda else None
    conda = _of_conda(environment, files)
    with _workshop(wheels.store, environment.folder) as workshop:
        python = bytecode.Python(environment.python, stamp.python, stamp.tag)
        if _has_its_python(environment, conda):
            bytecode.prepare(python, _there(wheels), workshop / COMPILED)
        found = _compared(environment.folder, stamp, environment, wheels, conda, workshop)
    return replace(found, wheels=found.wheels and (files is None or files.complete))


def point(link: Path, environment: Environment) -> None:
    """Make `.env` lead to the environment, in one step, unless it does."""
    target = os.path.relpath(environment.folder, link.parent)
    if link.is_symlink() and str(link.readlink()) == target:
        return
    part = link.with_name(f"{link.name}.{secrets.token_hex(4)}.part")  # others may be doing the same
    part.symlink_to(target)
    part.replace(link)


def _fill(
    folder: Path, environment: Environment, engine: Engine, wheels: Wheels, workshop: Path, seen: Seen, *, show: bool
) -> Stamp:
    """An environment in an empty folder, with everything that the lock names, and its bytecode.

    uv unpacks each wheel once into its cache and links the files from there. It knows a wheel again by where it found
    it, so that is always the same place.
    """
    links, cache, lock = workshop / LINKS, workshop / UNPACKED, environment.lock
    engine.make(folder, environment.prefix, workshop)
    python = bytecode.ask(folder / "bin" / "python")
    base = inventory.looks(folder, seen)
    stamp = Stamp(environment.profile, engine.name, environment.digest, python.version, python.tag, base)
    compiled, site = workshop / COMPILED, folder / environment.site
    with wheels.folder(links), ThreadPoolExecutor(1) as pool:
        # Where nothing is to be compiled, both only link files, and not the same ones.
        is_compiled = bytecode.complete(python.tag, wheels, compiled)
        linked = pool.submit(bytecode.link, python, site, wheels, compiled) if is_compiled else None
        done = uv_client.install(lock.path, python.path, links=links, cache=cache, show=show)
        if done.code:
            raise process.ProcessFailed("uv pip install", done)
        _tidy(site)
        if linked:
            linked.result()
            bytecode.link(python, site, wheels, compiled, info=True)
        else:
            bytecode.install(python, site, wheels, compiled)
    (folder / ".lock").unlink(missing_ok=True)  # uv's own, for as long as it works there
    return stamp


def _tidy(site: Path) -> None:
    """Take out what uv notes for itself: the time of a file here, which would be another one anywhere else."""
    for note in site.glob(f"*.dist-info/{UV_NOTE}"):
        record = note.with_name("RECORD")
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        part = note.with_name("RECORD.part")  # the list itself may be a link
        part.write_text("".join(line for line in lines if f"/{UV_NOTE}," not in line), encoding="utf-8")
        part.replace(record)
        note.unlink()


def _of_conda(environment: Environment, files: CondaFiles | None) -> dict[str, set[str]]:
    """What conda packages bring, of those that are in the store."""
    return files.sound().expected(environment.prefix, environment.site) if files else {}


def _has_its_python(environment: Environment, conda: Mapping[str, Collection[str]]) -> bool:
    """Whether the program that `bin/python` leads to is this machine's own, or that of the conda package."""
    program, folder = environment.python.resolve(), environment.folder.resolve()
    if environment.conda is None:
        return program.is_file()
    return folder in program.parents and sha256_file(program) in conda.get(str(program.relative_to(folder)), ())


def _there(wheels: Wheels) -> Wheels:
    """Those that are in the store."""
    found = {name: sha256 for name, sha256 in wheels.digests.items() if wheels.store.has(sha256)}
    return Wheels(wheels.store, found)


def _compared(
    folder: Path,
    stamp: Stamp,
    environment: Environment,
    wheels: Wheels,
    conda: Mapping[str, Collection[str]],
    workshop: Path,
    seen: Seen | None = None,
) -> Check:
    there = _there(wheels)
    compiled = list(bytecode.digests(stamp.tag, there, workshop / COMPILED))
    blobs = map(wheels.store.blob, there.digests.values())
    wanted = inventory.expected(environment.site, stamp.files, folder, blobs, compiled, conda)
    for path in WRITTEN_LATER:
        wanted[f"{environment.site}/{path}"] = {inventory.OPTIONAL}
    complete = bool(there.digests) and len(there.digests) == len(wheels.digests)
    # What conda packages bring is compiled by Python itself, as far as they do not bring that, too.
    of_any = conda if complete and bytecode.complete(stamp.tag, there, workshop / COMPILED) else wanted
    inventory.allow_bytecode(wanted, of_any, stamp.tag.rpartition("-")[0])
    count, wrong = inventory.differences(folder, wanted, ignored=(STAMP,), seen=seen)
    return Check(count, (*_packages(folder, environment), *wrong), complete)


def _packages(folder: Path, environment: Environment) -> Iterator[Difference]:
    """Python packages that are missing, or there without being locked."""
    target = resolve.target(environment.version)
    packages = environment.lock.packages
    locked = {(str(canonicalize_name(each.name)), each.version) for each in packages if target.wants(each)}
    found = {(each.name, each.version) for each in inventory.packages(folder / environment.site)}
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
