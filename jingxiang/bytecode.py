"""Bytecode of wheels: compiled once for each wheel and Python, kept, and linked into environments.

TAG/SHA256/…      the files of the wheel of that digest, by their names below site-packages
TAG/SHA256.json   the SHA-256 of each; written first, so a folder that is there is whole
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jingxiang import process, storage, views
from jingxiang.storage import Tally
from jingxiang.wheels import Wheels

COMPILER = Path(__file__).resolve().parent / "engines" / "compile.py"
INFO = ".dist-info"
ASK = "import platform, sys; print(platform.python_version(), sys.implementation.cache_tag)"


@dataclass(frozen=True)
class Python:
    """The Python of an environment, and `tag`, which stands for the bytecode that it makes: `cpython-311-3.11.7`.

    Releases with the same magic number read each other's bytecode, but their compilers do not write the same.
    """

    path: Path
    version: str
    tag: str


def ask(python: Path) -> Python:
    """Start it, to see that it works and what it is."""
    version, cache = process.check([python, "-I", "-B", "-c", ASK], name="python").stdout.split()
    return Python(python, version, f"{cache}-{version}")


def install(python: Python, site: Path, wheels: Wheels, folder: Path) -> Tally:
    """Link the bytecode of wheels into the `site` that they are unpacked in; what `folder` has not yet is compiled.

    Returns how many files were linked (or, onto another disk, copied).
    """
    prepare(python, wheels, folder)
    return link(python, site, wheels, folder) + link(python, site, wheels, folder, info=True)


def link(python: Python, site: Path, wheels: Wheels, folder: Path, *, info: bool = False) -> Tally:
    """Link what is compiled, while others may be linking the wheels' own files to the same places; `info`: only the few
    files below a NAME.dist-info, which installers would take for a package that is there already."""
    total = storage.NOTHING
    for sha256 in wheels.digests.values():
        total += _linked(str(folder / python.tag / sha256), str(site), lambda name: name.endswith(INFO) == info)
    return total


def prepare(python: Python, wheels: Wheels, folder: Path) -> None:
    """Compile the wheels that `folder` has not yet."""
    kept = folder / python.tag
    missing = [sha256 for sha256 in wheels.digests.values() if not (kept / sha256).is_dir()]
    if not missing:
        return
    part = kept / f"{secrets.token_hex(4)}.part"  # others may be compiling the same wheels
    targets = {str(part / sha256): str(wheels.store.blob(sha256)) for sha256 in missing}
    try:
        with storage.writing(folder):
            for target in targets:
                Path(target).mkdir(parents=True)
            job = part / "job.json"
            job.write_text(json.dumps(targets), encoding="utf-8")
        process.check([python.path, "-I", "-B", "-W", "ignore", COMPILER, job], name="compile.py")
        with storage.writing(folder):
            for sha256 in missing:
                (part / f"{sha256}.json").replace(kept / f"{sha256}.json")
                try:
                    (part / sha256).rename(kept / sha256)
                except OSError:
                    if not (kept / sha256).is_dir():  # else another process was faster: the same bytes
                        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def complete(tag: str, wheels: Wheels, folder: Path) -> bool:
    """Whether all wheels are compiled for Pythons of a kind."""
    return all((folder / tag / sha256).is_dir() for sha256 in wheels.digests.values())


def digests(tag: str, wheels: Wheels, folder: Path) -> Iterator[tuple[str, str]]:
    """Each file of bytecode by its name below site-packages, and its SHA-256; of those wheels that were compiled."""
    for sha256 in wheels.digests.values():
        with contextlib.suppress(FileNotFoundError, ValueError):  # ValueError: a power cut has left it empty
            yield from json.loads((folder / tag / f"{sha256}.json").read_text(encoding="utf-8")).items()


def _linked(source: str, target: str, wanted: Callable[[str], bool] = lambda name: True) -> Tally:
    """Link every file below one folder to the same place below another; of what is directly in it, what is `wanted`.

    Names are plain strings here: there are 13,000 of them, and objects would take longer than the links.
    """
    files = size_bytes = 0
    total = storage.NOTHING
    with os.scandir(source) as found:
        for entry in filter(lambda each: wanted(each.name), found):
            path = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path)  # noqa: PTH102
                total += _linked(entry.path, path)
                continue
            try:
                views.place(entry.path, path)
            except FileExistsError:  # a wheel may bring its own
                os.unlink(path)  # noqa: PTH108
                views.place(entry.path, path)
            files += 1
            size_bytes += entry.stat().st_size
    return total + Tally(files, size_bytes)
