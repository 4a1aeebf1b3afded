"""Locks of conda packages as conda-lock writes them, and the engines that can be had on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from jingxiang import conda_locks, locks
from jingxiang.commands import engines
from jingxiang.conda_packages import CondaFiles
from jingxiang.engines.mamba import Mamba
from jingxiang.engines.rattler import Rattler
from jingxiang.environments import Engine
from jingxiang.locks import ORIGIN, CondaPackage
from jingxiang.places import here
from jingxiang.store import Store

NAME = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)\.(conda|tar\.bz2)")


def entry(file: Path, channel: str = "conda-forge") -> dict[str, object]:
    """What conda-lock notes of a package of a channel."""
    match, body = NAME.fullmatch(file.name), file.read_bytes()
    assert match
    return {
        "name": match["name"], "version": match["version"], "manager": "conda", "platform": "linux-64",
        "dependencies": {}, "url": f"{ORIGIN}/{channel}/{file.parent.name}/{file.name}",
        "hash": {"md5": hashlib.md5(body).hexdigest(), "sha256": hashlib.sha256(body).hexdigest()},
        "build": match["build"], "category": "main", "optional": False,
    }  # fmt: skip


def body(entries: Iterable[dict[str, object]], version: int = 1) -> str:
    metadata = {
        "content_hash": {"linux-64": "0" * 64}, "channels": [{"url": "conda-forge", "used_env_vars": []}],
        "platforms": ["linux-64"], "sources": ["../i2v.yml"],
    }  # fmt: skip
    return yaml.safe_dump({"version": version, "metadata": metadata, "package": list(entries)}, sort_keys=False)


def lock(envs: Path, files: Iterable[Path], *, micromamba: Path | None = None) -> None:
    """Write spec and lock into the folder `envs` of a checkout, and what it says of micromamba."""
    spec = envs / engines.SPEC
    spec.write_text("name: i2v\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n", encoding="utf-8")
    text = locks.written(spec, body(map(entry, files)))
    (envs / "locks" / conda_locks.NAME).write_text(text, encoding="utf-8")
    name, sha256 = "micromamba-2.9.0-0.tar.bz2", "0" * 64
    if micromamba:
        name, sha256 = micromamba.name, hashlib.sha256(micromamba.read_bytes()).hexdigest()
    (envs / "locks" / conda_locks.MICROMAMBA).write_text(
        f'version = "2.9.0"\n\n[linux-64]\npackage = "{name}"\nsha256 = "{sha256}"\nbinary = "bin/micromamba"\n'
        f'binary_sha256 = "{hashlib.sha256(BROKEN).hexdigest()}"\n',
        encoding="utf-8",
    )


BROKEN = b"#!/bin/sh\necho this kernel is too old >&2\nexit 3\n"  # a micromamba that does not run


def stored(store: Store, files: Iterable[Path]) -> CondaFiles:
    """Packages of a channel, in a store."""
    found = []
    for file in files:
        match = NAME.fullmatch(file.name)
        assert match
        path = f"{file.parent.name}/{file.name}"
        found.append(CondaPackage(match["name"], match["version"], "conda-forge", path, store.add(file)))
    return CondaFiles(store, tuple(found))


def engine(name: str, files: CondaFiles) -> Engine:
    """An engine, if this machine has it: micromamba is named by its variable, or is in the store of this checkout."""
    if name == engines.RATTLER:
        return Rattler(Path(sys.executable), files)
    places = here()
    if engines.OWN not in os.environ and not Store(places.store).has(
        conda_locks.micromamba(places.locks).package.sha256
    ):
        pytest.skip(f"no micromamba: {engines.OWN} is not set, and its package is not in the store")
    return Mamba(engines.micromamba(places), files)
