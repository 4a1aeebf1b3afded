"""Locks of conda packages (`conda-lock.yml`, version 1, as conda-lock writes it), and of what installs them.

The addresses in it are the packages' names: those of the channel's origin, whichever mirror they came through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jingxiang import locks, tables
from jingxiang.errors import TableError
from jingxiang.language import tr
from jingxiang.locks import ORIGIN, CondaPackage, LockFile

NAME = "conda-lock.yml"
MICROMAMBA = "micromamba.toml"
SUBDIR = "linux-64"
CHANNEL = "conda-forge"
# A part `/t/…/` of an address would be taken for a token, and hidden from what an installer writes.
ADDRESS = re.compile(
    rf"{re.escape(ORIGIN)}/(?P<channel>(?!t/)[A-Za-z0-9_.-]+)/(?P<path>(?:{SUBDIR}|noarch)/(?P<file>[A-Za-z0-9_.!+-]+"
    r"\.(?:conda|tar\.bz2)))"
)
NAME_OF_CHANNEL = re.compile("[A-Za-z0-9_.-]+")
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class CondaLock(LockFile):
    """A complete environment: nothing is solved any more."""

    packages: tuple[CondaPackage, ...]


@dataclass(frozen=True)
class Micromamba:
    """The package that holds the program, where it is in it, and its own digest."""

    package: CondaPackage
    binary: str
    binary_sha256: str


def read(path: Path) -> CondaLock:
    """Parse a lock; raises `TableError` where something in it could be installed without being checked."""
    import yaml

    text, where = locks.text_of(path), f"envs/locks/{path.name}"
    try:
        values = yaml.safe_load(text)
        if values["version"] != 1:
            raise TableError(where, "version", tr("should be {wanted}", wanted=1))
        packages = tuple(_package(where, entry) for entry in values["package"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise TableError(where, "", tr("not a lock of conda-lock, version 1")) from error
    found = locks.marks(path, text)
    return CondaLock(path, found.digest, found.spec_digest, found.edited, packages)


def micromamba(folder: Path) -> Micromamba:
    """What `micromamba.toml` in the folder of locks says."""
    table = tables.read(folder / MICROMAMBA, f"envs/locks/{MICROMAMBA}")
    table.only("version", SUBDIR)
    entry = table.table(SUBDIR)
    entry.only("package", "sha256", "binary", "binary_sha256")
    for key in ("sha256", "binary_sha256"):
        if not SHA256.fullmatch(entry.string(key)):
            raise entry.error(key, tr("not a SHA-256 of 64 lower-case hex digits"))
    package = CondaPackage(
        "micromamba", table.string("version"), CHANNEL, f"{SUBDIR}/{entry.string('package')}", entry.string("sha256")
    )
    return Micromamba(package, entry.string("binary"), entry.string("binary_sha256"))


def channels(spec: Path) -> list[str]:
    """The names of the channels in an environment file; raises `TableError` where it is none."""
    import yaml

    where = f"envs/{spec.name}"
    try:
        found = [str(each) for each in yaml.safe_load(spec.read_text(encoding="utf-8"))["channels"]]
    except OSError as error:
        raise TableError(where, "", tr("cannot be read: {reason}", reason=error.strerror)) from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise TableError(where, "channels", tr("not an environment file with a list of channels")) from error
    names = [each for each in found if each != "nodefaults"]
    for name in names:
        if not NAME_OF_CHANNEL.fullmatch(name):
            text = tr("'{value}' is not the name of a channel, such as {example}", value=name, example=CHANNEL)
            raise TableError(where, "channels", text)
    return names


def _package(where: str, entry: Mapping[str, Any]) -> CondaPackage:
    name = str(entry["name"])
    if entry["manager"] != "conda" or entry["platform"] != SUBDIR:
        text = tr("only conda packages for {subdir}; Python packages are locked beside it", subdir=SUBDIR)
        raise TableError(where, name, text)
    address = ADDRESS.fullmatch(str(entry["url"]))
    if not address:
        raise TableError(where, name, tr("not the address of a package at {origin}", origin=ORIGIN))
    sha256 = str(entry["hash"].get("sha256"))
    if not SHA256.fullmatch(sha256):
        raise TableError(where, name, tr("not a SHA-256 of 64 lower-case hex digits"))
    return CondaPackage(name, str(entry["version"]), address["channel"], address["path"], sha256)
