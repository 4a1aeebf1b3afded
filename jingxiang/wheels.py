"""The wheels of a lock, in the store: found through the mirrors' indexes once, then known without any."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jingxiang import storage
from jingxiang.digest import canonical_json, sha256_bytes
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.engine import Show
from jingxiang.fetch.report import Report
from jingxiang.fetch.resolve import Target
from jingxiang.fetch.session import Session
from jingxiang.file_lock import held
from jingxiang.locks import LockedPackage
from jingxiang.store import Store

NOTES = "resolved"
# In the store's `derived`: the folder of links while wheels are installed, uv's cache, bytecode, and digests of both.
LINKS, UNPACKED, COMPILED, SEEN = "wheels", "unpacked", "bytecode", "seen.json"
CONDA = "conda"  # where each engine unpacks conda packages


@dataclass(frozen=True)
class Wheels:
    """File names and the blobs that they are."""

    store: Store
    digests: Mapping[str, str]

    @property
    def complete(self) -> bool:
        return all(self.store.has(sha256) for sha256 in self.digests.values())

    def discard_damaged(self) -> int:
        """Read the files again and put those into quarantine that are not what they are called; says how many."""
        damaged = [sha256 for sha256 in self.digests.values() if not self.store.is_sound(sha256)]
        for sha256 in damaged:
            self.store.quarantine(sha256)
        return len(damaged)

    @contextlib.contextmanager
    def folder(self, path: Path) -> Iterator[None]:
        """Make `path` a folder of links to the files, as for pip's --find-links, that is gone afterwards.

        One process at a time has it.
        """
        with storage.writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with held(path.with_name(f"{path.name}.lock")):
            try:
                shutil.rmtree(path, ignore_errors=True)  # of a process that was killed
                with storage.writing(path.parent):
                    path.mkdir()
                    for name, sha256 in self.digests.items():
                        (path / name).symlink_to(self.store.blob(sha256))
                yield
            finally:
                shutil.rmtree(path, ignore_errors=True)


def known(store: Store, packages: Sequence[LockedPackage], target: Target) -> Wheels | None:
    """What an earlier run has found for the same packages and the same Python; None if nothing has."""
    try:
        digests = json.loads(_note(store, packages, target).read_text(encoding="utf-8"))
        return Wheels(store, {str(name): str(sha256) for name, sha256 in digests.items()})
    except (OSError, ValueError, AttributeError):  # none, or not a whole one
        return None


def fetched(
    session: Session,
    store: Store,
    packages: Sequence[LockedPackage],
    target: Target,
    *,
    also: Sequence[Artifact] = (),
    listed: Callable[[int], None] = lambda done: None,
    planned: Callable[[Sequence[Artifact]], None] = lambda artifacts: None,
    show: Show = lambda progress: None,
) -> tuple[Wheels, Report]:
    """Find and fetch, and fetch `also` what needs not be found.

    `listed` hears how many files are found, `planned` what is going to be fetched.

    Raises `Unavailable`, `StoreFull`.
    """
    artifacts = session.resolve(packages, target, listed)
    planned((*artifacts, *also))
    report = session.fetch((*artifacts, *also), show)
    wheels = Wheels(store, {artifact.name: report.digests[artifact.key] for artifact in artifacts})
    note = _note(store, packages, target)
    with storage.writing(store.root):
        note.parent.mkdir(parents=True, exist_ok=True)
        part = note.with_name(f"{note.name}.{secrets.token_hex(4)}.part")  # others may be writing the same note
        part.write_bytes(canonical_json(wheels.digests))
        part.replace(note)
    return wheels, report


def forget(store: Store) -> None:
    """Remove what is noted of files that are not in the store any more."""
    for note in (store.root / NOTES).glob("*.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError), storage.writing(store.root):
            if not all(map(store.has, json.loads(note.read_text(encoding="utf-8")).values())):
                note.unlink()


def forget_derived(store: Store) -> None:
    """Remove what was made of blobs and can be made again. Waits for a process that is installing."""
    if not store.derived.is_dir() or not store.is_ours:
        return
    with storage.writing(store.root), held(store.derived / f"{LINKS}.lock"), held(store.derived / f"{CONDA}.lock"):
        for folder in (UNPACKED, COMPILED, CONDA):
            shutil.rmtree(store.derived / folder, ignore_errors=True)
        (store.derived / SEEN).unlink(missing_ok=True)


def _note(store: Store, packages: Sequence[LockedPackage], target: Target) -> Path:
    key = sha256_bytes(canonical_json([[package.line() for package in packages], target.python, target.tags]))
    return store.root / NOTES / f"{key}.json"
