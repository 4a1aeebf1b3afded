"""Weights of models: which files of which repositories a model is made of, and the lock of their hashes.

app/models.lock (JSON), for each model:

spec    digest of what app/models.toml takes, as it was when this was locked
digest  of `parts`: an entry that somebody edited or merged by hand is noticed
parts   its repositories, each with its revision and files: path, size, and sha256 or, until it is fetched for the first
        time, git: hubs know small files by the name that git has for their content
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jingxiang.digest import canonical_json, sha256_bytes
from jingxiang.errors import JingxiangError, TableError
from jingxiang.language import tr
from jingxiang.tables import Table

LOCK = "app/models.lock"
ACCEPTED = "licences"  # in our home: names of models whose licence the user has accepted
REVISION = re.compile("[0-9a-f]{40}")
SHA256 = re.compile("[0-9a-f]{64}")
GIT = REVISION  # a name that git has for content, like that of a commit, is a SHA-1
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

    @property
    def digest(self) -> str:
        """Of what is taken from where: a lock made for something else is stale."""
        return sha256_bytes(canonical_json([asdict(part) for part in self.parts]))


@dataclass(frozen=True, order=True)
class LockedFile:
    """One file of a repository, by its SHA-256, or by git's name (`git`) as long as nobody has read it."""

    path: str
    size: int
    sha256: str = ""
    git: str = ""

    def to_json(self) -> dict[str, str | int]:
        named = {"sha256": self.sha256} if self.sha256 else {"git": self.git}
        return {"path": self.path, "size": self.size, **named}


@dataclass(frozen=True)
class LockedPart:
    """A repository at one revision, with every file that the model takes from it."""

    repository: str
    revision: str
    files: tuple[LockedFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def to_json(self) -> dict[str, object]:
        files = [file.to_json() for file in self.files]
        return {"repository": self.repository, "revision": self.revision, "files": files}


@dataclass(frozen=True)
class ModelLock:
    """What a model is made of. `spec`: the digest of the weights that it was made for; `digest`: that of the parts."""

    spec: str
    digest: str
    parts: tuple[LockedPart, ...]

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    @property
    def is_complete(self) -> bool:
        """Whether every file is known by its SHA-256."""
        return all(file.sha256 for part in self.parts for file in part.files)

    def to_json(self) -> dict[str, object]:
        return {"spec": self.spec, "digest": self.digest, "parts": [part.to_json() for part in self.parts]}


def lock(weights: Weights, parts: Iterable[LockedPart]) -> ModelLock:
    """The lock of a model, whose parts are in the order of its weights'."""
    found = tuple(parts)
    return ModelLock(weights.digest, digest(found), found)


class Pickle(JingxiangError):
    """A file that can run a program when it is loaded."""

    def __init__(self, model: str, path: str) -> None:
        text = tr("{model}: {path}: is in a format that can run programs when it is loaded", model=model, path=path)
        hint = tr("take .safetensors instead; or, if you trust whoever made it, set allow_pickle = true")
        super().__init__(text, hints=(hint,))


class StaleLock(JingxiangError):
    """A model's lock that was made for other files than app/models.toml takes now, or edited by hand."""

    def __init__(self, model: str, reason: str) -> None:
        text = tr("{lock}: {model}: {reason}", lock=LOCK, model=model, reason=reason)
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


def digest(parts: Iterable[LockedPart]) -> str:
    """Of what a model is made of."""
    return sha256_bytes(canonical_json([part.to_json() for part in parts]))


def load(file: Path) -> dict[str, ModelLock]:
    """The lock; nothing is locked where there is none. Raises `TableError`."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return {str(model): _locked(entry) for model, entry in values.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TableError(LOCK, "", tr("cannot be read: {reason}", reason=error.strerror)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(LOCK, "", tr("is not a lock of models")) from error


def written(locks: Mapping[str, ModelLock]) -> str:
    """The lock as a file, the same for the same content."""
    return json.dumps({model: lock.to_json() for model, lock in sorted(locks.items())}, indent=1) + "\n"


def check_fits(model: str, weights: Weights, lock: ModelLock) -> None:
    """Raise `StaleLock` if it is not what was written for these weights, `Pickle` if it has what they do not allow."""
    if lock.digest != digest(lock.parts):
        raise StaleLock(model, tr("was edited by hand"))
    if lock.spec != weights.digest:
        raise StaleLock(model, tr("does not fit what app/models.toml takes"))
    for part in lock.parts:
        check(model, weights, (file.path for file in part.files))


def _part(table: Table) -> Part:
    table.only("repository", "revision", "files", "folder")
    repository, revision = table.string("repository"), table.string("revision")
    if not REPOSITORY.fullmatch(repository):
        raise table.error("repository", tr("should be ORGANISATION/NAME"))
    if not REVISION.fullmatch(revision):
        raise table.error("revision", tr("should be a commit of 40 hex digits: a branch is another one tomorrow"))
    return Part(repository, revision, table.strings("files"), table.string("folder", ""))


def _locked(entry: Mapping[str, Any]) -> ModelLock:
    parts = []
    for part in entry["parts"]:
        files = [LockedFile(**file) for file in part["files"]]
        named = (SHA256.fullmatch(file.sha256) or GIT.fullmatch(file.git) for file in files)
        if not REVISION.fullmatch(part["revision"]) or not all(named):
            raise ValueError(part["repository"])
        parts.append(LockedPart(part["repository"], part["revision"], tuple(files)))
    return ModelLock(entry["spec"], entry["digest"], tuple(parts))


def accepted(home: Path) -> list[str]:
    """Names of models whose licence the user has accepted."""
    path = home / ACCEPTED
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
