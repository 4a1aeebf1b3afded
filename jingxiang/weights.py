"""Weights of models: which files of which repositories a model is made of, and the lock of their hashes.

app/models.lock (JSON): for each model each of its repositories with its revision and every file with size and SHA-256.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jingxiang.errors import JingxiangError, TableError
from jingxiang.language import tr
from jingxiang.tables import Table

LOCK = "app/models.lock"
REVISION = re.compile("[0-9a-f]{40}")
SHA256 = re.compile("[0-9a-f]{64}")
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
# Formats in which a file can run a program when it is loaded.
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


@dataclass(frozen=True)
class Licence:
    """Under what a model may be used; `commercial`: also to earn money; `free`: without conditions to accept."""

    name: str
    url: str
    commercial: bool
    free: bool


@dataclass(frozen=True)
class Part:
    """What a model takes from one repository: files that match one of the patterns, below `folder`."""

    repository: str
    revision: str
    files: tuple[str, ...]
    folder: str = ""

    def wants(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.files)

    def place(self, path: str) -> str:
        """Where a file of the repository is in the model's folder."""
        return f"{self.folder}/{path}" if self.folder else path


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model come from. `gated`: its repository wants a licence to be accepted first."""

    parts: tuple[Part, ...]
    licence: Licence
    gated: bool
    allow_pickle: bool


@dataclass(frozen=True, order=True)
class LockedFile:
    """One file of a repository."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class LockedPart:
    """A repository at one revision, with every file that the model takes from it."""

    repository: str
    revision: str
    files: tuple[LockedFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


class Pickle(JingxiangError):
    """A file that can run a program when it is loaded."""

    def __init__(self, model: str, path: str) -> None:
        text = tr("{model}: {path}: is in a format that can run programs when it is loaded", model=model, path=path)
        hint = tr("take .safetensors instead; or, if you trust whoever made it, set allow_pickle = true")
        super().__init__(text, hints=(hint,))


class OtherFiles(JingxiangError):
    """The lock of a model was made for another revision, or other files, than the model asks for now."""

    def __init__(self, model: str, repository: str) -> None:
        text = tr("{lock}: {model}: does not fit what app/models.toml takes from {repository}", lock=LOCK, model=model,
                  repository=repository)  # fmt: skip
        super().__init__(text, hints=(f"python3 tasks.py lock --models {model}",))


def read(table: Table) -> Weights:
    """The table `weights` of a model in app/models.toml."""
    table.only("licence", "gated", "allow_pickle", "parts")
    licence = table.table("licence")
    licence.only("name", "url", "commercial", "free")
    parts = table.table("parts").tables()
    if not parts:
        raise table.error("parts", tr("is empty"))
    return Weights(
        tuple(_part(each) for each in parts.values()),
        Licence(licence.string("name"), licence.string("url"), licence.boolean("commercial"), licence.boolean("free")),
        table.boolean("gated", default=False),
        table.boolean("allow_pickle", default=False),
    )


def check(model: str, weights: Weights, paths: Iterable[str]) -> None:
    """Raise `Pickle` if a file is in a format that the model does not allow."""
    for path in paths:
        if path.lower().endswith(PICKLES) and not weights.allow_pickle:
            raise Pickle(model, path)


def load(file: Path) -> dict[str, tuple[LockedPart, ...]]:
    """The lock; nothing is locked where there is none. Raises `TableError`."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return {str(model): tuple(map(_locked, parts)) for model, parts in values.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TableError(LOCK, "", tr("cannot be read: {reason}", reason=error.strerror)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(LOCK, "", tr("is not a lock of models")) from error


def written(locks: Mapping[str, Iterable[LockedPart]]) -> str:
    """The lock as a file, the same for the same content."""
    values = {model: [asdict(part) for part in parts] for model, parts in sorted(locks.items())}
    return json.dumps(values, indent=1) + "\n"


def fitting(model: str, weights: Weights, locked: Iterable[LockedPart]) -> tuple[LockedPart, ...]:
    """The locked parts in the order of the model's; raises `OtherFiles` where they are not of what it asks for."""
    by_name = {(each.repository, each.revision): each for each in locked}
    found = []
    for part in weights.parts:
        each = by_name.get((part.repository, part.revision))
        if each is None or not all(part.wants(file.path) for file in each.files):
            raise OtherFiles(model, part.repository)
        check(model, weights, (file.path for file in each.files))
        found.append(each)
    return tuple(found)


def _part(table: Table) -> Part:
    table.only("repository", "revision", "files", "folder")
    repository, revision = table.string("repository"), table.string("revision")
    if not REPOSITORY.fullmatch(repository):
        raise table.error("repository", tr("should be ORGANISATION/NAME"))
    if not REVISION.fullmatch(revision):
        raise table.error("revision", tr("should be a commit of 40 hex digits: a branch is another one tomorrow"))
    return Part(repository, revision, table.strings("files"), table.string("folder", ""))


def _locked(values: Mapping[str, Any]) -> LockedPart:
    files = tuple(LockedFile(str(each["path"]), int(each["size"]), str(each["sha256"])) for each in values["files"])
    found = LockedPart(str(values["repository"]), str(values["revision"]), files)
    if not REVISION.fullmatch(found.revision) or not all(SHA256.fullmatch(file.sha256) for file in files):
        raise ValueError(found.repository)
    return found
