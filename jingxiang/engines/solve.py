"""Lock the conda packages of an environment file. A program for a Python that has conda-lock and py-rattler:
`python -I solve.py JOB.json`.

JOB.json: `spec` (environment file), `current` (the lock so far, or ""), `upgrade` (names of packages that need not
stay as they are), `channels` (channel -> address to ask), `cache` (folder for what the channels list), `output` (file
to write). Ends with 3 if it could not have what a channel lists.

The lock is what conda-lock itself writes: its reader of environment files, its virtual packages (what it takes a
machine to be, whichever one this runs on), its format. Packages are called by the address of the channel's origin,
whatever address they were found at.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from conda_lock.content_hash import compute_content_hashes
from conda_lock.lockfile import apply_categories, parse_conda_lock_file, write_conda_lock_file
from conda_lock.lockfile.v2prelim.models import HashModel, LockedDependency, Lockfile, LockMeta
from conda_lock.models.lock_spec import LockSpecification, VersionedDependency
from conda_lock.src_parser.environment_yaml import parse_environment_file
from conda_lock.virtual_package import default_virtual_package_repodata
from rattler import BuildString, Gateway, GenericVirtualPackage, PackageName, RepoDataRecord, Subdir, Version, solve
from rattler.exceptions import FetchRepoDataError, GatewayError, InvalidMatchSpecError, SolverError

ORIGIN = "https://conda.anaconda.org"
PLATFORM = "linux-64"
UNREACHABLE = 3


class Unlockable(Exception):
    """A package that a lock cannot name."""


def main(job: Mapping[str, Any]) -> None:
    """Read, solve, write."""
    spec = _spec(Path(job["spec"]))
    machine = default_virtual_package_repodata()
    records = asyncio.run(_solved(spec, job, list(_virtual(machine))))
    origins = {address.rstrip("/"): f"{ORIGIN}/{channel}" for channel, address in job["channels"].items()}
    locked = {record.name.normalized: _locked(record, origins) for record in records}
    apply_categories(
        requested={each.name: each for each in spec.dependencies[PLATFORM]}, planned=locked, mapping_url=""
    )
    metadata = LockMeta(
        content_hash=compute_content_hashes(spec, machine), channels=spec.channels, platforms=[PLATFORM],
        sources=[f"../{Path(job['spec']).name}"],
    )  # fmt: skip
    lock = Lockfile(package=list(locked.values()), metadata=metadata)
    # Its help text says how to use conda-lock alone, which would fetch from the origin.
    write_conda_lock_file(lock, Path(job["output"]), metadata_choices=None, include_help_text=False)


def _spec(path: Path) -> LockSpecification:
    """The conda part of an environment file, as conda-lock reads it. The pip part is locked beside it, by uv."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["dependencies"] = [each for each in values["dependencies"] if isinstance(each, str)]
    with tempfile.TemporaryDirectory() as scratch:
        alone = Path(scratch) / path.name
        alone.write_text(yaml.safe_dump(values), encoding="utf-8")
        return parse_environment_file(alone, [PLATFORM], mapping_url="")


async def _solved(
    spec: LockSpecification, job: Mapping[str, Any], machine: list[GenericVirtualPackage]
) -> list[RepoDataRecord]:
    """The newest that fit together; what is locked already stays where it still fits, unless it is to be upgraded."""
    gateway = Gateway(cache_dir=job["cache"], show_progress=False)
    channels, platforms = list(job["channels"].values()), [Subdir(PLATFORM), Subdir("noarch")]
    wanted = [_wanted(each) for each in spec.dependencies[PLATFORM]]
    listed = await gateway.query(channels, platforms, wanted, recursive=True)
    kept = _kept(job)
    locked = [record for part in listed for record in part if kept.get(record.name.normalized) == record.file_name]
    return await solve(channels, wanted, gateway, platforms=platforms, virtual_packages=machine, locked_packages=locked)


def _wanted(dependency: Any) -> str:
    assert isinstance(dependency, VersionedDependency), dependency
    return " ".join(filter(None, (dependency.name, dependency.version, dependency.build)))


def _kept(job: Mapping[str, Any]) -> dict[str, str]:
    """Name -> file of the packages that are locked now and need not change."""
    if not job["current"]:
        return {}
    current = parse_conda_lock_file(Path(job["current"]))
    return {each.name: each.url.rpartition("/")[2] for each in current.package if each.name not in job["upgrade"]}


def _virtual(machine: Any) -> Iterable[GenericVirtualPackage]:
    """What conda-lock takes every machine of the platform to have."""
    for package, subdirs in machine.packages_by_subdir.items():
        if PLATFORM in subdirs:
            yield GenericVirtualPackage(PackageName(package.name), Version(package.version), BuildString(package.build))


def _locked(record: RepoDataRecord, origins: Mapping[str, str]) -> LockedDependency:
    """One package of the lock, by its address at the origin."""
    base = record.url.removesuffix(f"/{record.subdir}/{record.file_name}")
    if not record.md5 or not record.sha256:
        raise Unlockable(f"{record.url}: is listed without its hashes")
    depends = (each.partition(" ") for each in record.depends)
    return LockedDependency(
        name=record.name.normalized, version=str(record.version), manager="conda", platform=PLATFORM,
        dependencies={name: version for name, _, version in depends if not name.startswith("__")},
        url=f"{origins[base]}/{record.subdir}/{record.file_name}", build=str(record.build),
        hash=HashModel(md5=record.md5.hex(), sha256=record.sha256.hex()),
    )  # fmt: skip


def ended(code: int, text: str = "") -> NoReturn:
    """End at once: py-rattler's threads may crash a Python that takes its time."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 (a program of its own)
    os._exit(code)


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except (FetchRepoDataError, GatewayError) as error:
        ended(UNREACHABLE, " ".join(str(error).split()))
    except (InvalidMatchSpecError, SolverError, Unlockable) as error:
        ended(1, str(error))
    ended(0)
