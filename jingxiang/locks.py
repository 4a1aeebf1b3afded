"""Locks, and those of Python packages: names, versions and hashes, never an address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jingxiang.digest import sha256_bytes
from jingxiang.errors import JingxiangError, TableError
from jingxiang.language import tr

HEADER = "# Made by `python3 tasks.py lock` from envs/{name}; do not edit. Hashes, never addresses.\n"
SPEC_LINE = "# spec sha256:"
BODY_LINE = "# body sha256:"  # of all that follows this line
ORIGIN = "https://conda.anaconda.org"  # what addresses of conda packages begin with, in every lock
PACKAGE = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)\s*(?:;\s*(?P<marker>[^\\]+?))?\s*(?P<hashes>(?:\s--hash=sha256:[0-9a-f]{64})+)$"
)


class StaleLock(JingxiangError):
    """The spec was edited after its lock was made."""

    def __init__(self, lock: str, spec: str) -> None:
        super().__init__(
            tr(
                "{lock}: is older than {spec}; what it would install is not what the spec asks for",
                lock=lock,
                spec=spec,
            ),
            hints=("python3 tasks.py lock",),
        )


class EditedLock(JingxiangError):
    """The lock is not as `lock` wrote it: somebody edited it, or a merge went wrong."""

    def __init__(self, lock: str) -> None:
        super().__init__(
            tr("{lock}: was changed by hand; what it would install was never resolved together", lock=lock),
            hints=("python3 tasks.py lock", f"git checkout -- {lock}"),
        )


@dataclass(frozen=True)
class LockedPackage:
    """One exact version and the SHA-256 of every file of it that may be installed."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    @property
    def space(self) -> str:
        """A local version (`2.13.0+cpu`) is a build of PyTorch's own index; all else is on the ordinary ones."""
        return "torch" if "+" in self.version else "pypi"

    @property
    def build(self) -> str:
        """`cpu` of `2.13.0+cpu`."""
        return self.version.partition("+")[2]

    def line(self) -> str:
        """As pip and uv read it."""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{marker} " + " ".join(f"--hash=sha256:{digest}" for digest in self.hashes)


@dataclass(frozen=True)
class CondaPackage:
    """One file of a channel. `path`: below the channel, `linux-64/zstd-1.5.7-hb78ec9c_6.conda`."""

    name: str
    version: str
    channel: str
    path: str
    sha256: str

    @property
    def file(self) -> str:
        return self.path.partition("/")[2]

    @property
    def url(self) -> str:
        """Its name in the world of conda; nobody is asked there."""
        return f"{ORIGIN}/{self.channel}/{self.path}"


@dataclass(frozen=True)
class LockFile:
    """What every lock has: its own digest, that of the spec that it was made from, and whether it is as it was written
    (`edited`: it is not)."""

    path: Path
    digest: str
    spec_digest: str
    edited: bool

    def check_fresh(self, spec: Path) -> None:
        """Raise `EditedLock` or `StaleLock` unless the lock is as it was made, from the spec as it is now."""
        if self.edited:
            raise EditedLock(f"envs/locks/{self.path.name}")
        if self.spec_digest != spec_digest(spec):
            raise StaleLock(f"envs/locks/{self.path.name}", f"envs/{spec.name}")


@dataclass(frozen=True)
class Lock(LockFile):
    """A lock of Python packages."""

    packages: tuple[LockedPackage, ...]

    def of_space(self, space: str) -> tuple[LockedPackage, ...]:
        return tuple(package for package in self.packages if package.space == space)


def written(spec: Path, body: str) -> str:
    """A lock file: where it comes from, and what a solver has found."""
    head = HEADER.format(name=spec.name) + f"{SPEC_LINE}{spec_digest(spec)}\n"
    return f"{head}{BODY_LINE}{sha256_bytes(body.encode())}\n{body}"


def text_of(path: Path) -> str:
    """A lock as it is on the disk; raises `TableError` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TableError(
            f"envs/locks/{path.name}", "", tr("cannot be read: {reason}", reason=error.strerror)
        ) from error


def marks(path: Path, text: str) -> LockFile:
    """What the first lines of a lock say of it."""
    spec = next((line for line in text.splitlines() if line.startswith(SPEC_LINE)), SPEC_LINE)
    digest, _, body = text.partition(BODY_LINE)[2].partition("\n")
    edited = digest.strip() != sha256_bytes(body.encode())
    return LockFile(path, sha256_bytes(text.encode()), spec[len(SPEC_LINE) :].strip(), edited)


def spec_digest(spec: Path) -> str:
    """Digest of a spec and of the specs that it includes (`-r other.in`), without comments and blank lines."""
    return sha256_bytes("\n".join(_spec_lines(spec)).encode())


def _spec_lines(spec: Path) -> list[str]:
    lines: list[str] = []
    try:
        text = spec.read_text(encoding="utf-8")
    except OSError as error:
        raise TableError(f"envs/{spec.name}", "", tr("cannot be read: {reason}", reason=error.strerror)) from error
    for raw in text.splitlines():
        line = raw.partition(" #")[0].strip()
        if line.startswith("-r "):
            lines += _spec_lines(spec.parent / line[3:].strip())
        elif line and not line.startswith("#"):
            lines.append(line)
    return lines


def read(path: Path) -> Lock:
    """Parse a lock; a line that is not an exact version with hashes is an error."""
    text = text_of(path)
    packages = []
    for number, line in _joined(text):
        if line and not line.startswith("#"):
            match = PACKAGE.match(line)
            if not match:
                raise TableError(
                    f"envs/locks/{path.name}",
                    tr("line {number}", number=number),
                    tr("not NAME==VERSION with --hash=sha256:…"),
                )
            hashes = re.findall(r"[0-9a-f]{64}", match["hashes"])
            packages.append(LockedPackage(match["name"], match["version"], match["marker"] or "", tuple(hashes)))
    found = marks(path, text)
    return Lock(path, found.digest, found.spec_digest, found.edited, tuple(packages))


def _joined(text: str) -> list[tuple[int, str]]:
    """Lines with those that end in a backslash joined, each with the number of its first line."""
    joined: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        start = start or number
        pending += raw.rstrip("\\").strip() + " "
        if not raw.endswith("\\"):
            joined.append((start, pending.strip()))
            pending, start = "", 0
    if pending.strip():  # the file ends where a line should go on
        joined.append((start, pending.strip()))
    return joined
