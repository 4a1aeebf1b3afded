"""What an environment must hold, file by file, and whether it does.

The wheels say it: their hashes are in the lock, and each lists its own files (RECORD, PEP 376 and 427). What an
installer adds to them is in the list that it leaves in the environment, what was there before any package in the stamp,
and bytecode in the store. A wheel that is not in the store any more is replaced by the list in the environment.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import os
import secrets
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from packaging.utils import canonicalize_name

from jingxiang import storage
from jingxiang.digest import sha256_bytes, sha256_file

ADDED, CHANGED, MISSING = "added", "changed", "missing"
LINK = "-> "
UNKNOWN = ""  # instead of a digest: the file must be there, whatever is in it
OPTIONAL = "*"  # it may be there, whatever is in it
# What installers write beside what came in a wheel.
INSTALLERS = ("INSTALLER", "REQUESTED", "direct_url.json")

Expected = dict[str, set[str]]  # by path below the environment: each digest that the file may have


@dataclass(frozen=True, order=True)
class Difference:
    """A file, by its path below the environment, that is not as it should be."""

    path: str
    kind: str


@dataclass(frozen=True)
class Package:
    """An installed package, by what its own files say."""

    name: str
    version: str
    info: str  # NAME-VERSION.dist-info


class Seen:
    """Digests of files that several environments share by hard links, kept in a file: they are read once, and again
    when their size or the time of their last change is another one. Who wants to know what is on the disk reads all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[int, int, str]] = {}  # by device and inode: size, time in ns, digest
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._known = dict(json.loads(path.read_text(encoding="utf-8")))
        self._new = False

    def digest(self, look: os.stat_result) -> str:
        """Of a file as it looks now; empty if it was not read yet."""
        size, time_ns, digest = self._known.get(f"{look.st_dev}:{look.st_ino}", (0, 0, ""))
        return digest if (size, time_ns) == (look.st_size, look.st_mtime_ns) else ""

    def add(self, look: os.stat_result, digest: str) -> None:
        """What was read of a file that looked so before."""
        if look.st_nlink > 1:
            self._known[f"{look.st_dev}:{look.st_ino}"] = (look.st_size, look.st_mtime_ns, digest)
            self._new = True

    def keep(self) -> None:
        """Write what was read for the next time."""
        if self._new:
            part = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.part")
            with storage.writing(self._path.parent):
                part.write_text(json.dumps(self._known), encoding="utf-8")
                part.replace(self._path)
            self._new = False


def looks(folder: Path, seen: Seen | None = None) -> dict[str, str]:
    """Every file below a folder with its digest; of a symbolic link where it leads, and it is not followed.

    `seen`: where to look before a file is read, and to note what was read.
    """
    found: dict[str, str] = {}
    unread: dict[str, os.stat_result] = {}
    for name, entry in _entries(folder):
        if entry.is_symlink():
            found[name] = f"{LINK}{Path(entry.path).readlink()}"
            continue
        look = entry.stat(follow_symlinks=False)
        if seen and (digest := seen.digest(look)):
            found[name] = digest
        else:
            unread[name] = look
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for (name, look), digest in zip(
            unread.items(), pool.map(lambda name: sha256_file(folder / name), unread), strict=True
        ):
            found[name] = digest
            if seen:
                seen.add(look, digest)
    return found


def packages(site: Path) -> list[Package]:
    """What is installed."""
    found = []
    for info in sorted(site.glob("*.dist-info")):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        found.append(Package(canonicalize_name(name), version, info.name))
    return found


def expected(
    site: str,
    base: Mapping[str, str],
    folder: Path,
    wheels: Iterable[Path],
    bytecode: Iterable[tuple[str, str]],
    conda: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Expected:
    """What must be in `folder`, whose packages are in `site` below it.

    `base`: what was there before any package. `bytecode`: names below `site` with digests. `conda`: what of the base is
    known from conda packages, which is believed instead.
    """
    found: Expected = {path: {digest} for path, digest in base.items()}
    found.update((path, set(digests)) for path, digests in conda.items())
    listed = set()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()  # packages that vendor others have lists further down, too
            info = next(name for name in names if name.endswith(".dist-info/RECORD") and name.count("/") == 1)
            record = [
                # Old tools list files without a digest; only of the list itself and its signatures there can be none.
                (name, digest or ("" if name.startswith(info) else sha256_bytes(archive.read(name))))
                for name, digest in _record(archive.read(info).decode())
            ]
        listed.add(info.partition("/")[0])
        for name, digest in record:
            if path := _installed(name, site):
                found.setdefault(path, set()).add(digest)
    for package in packages(folder / site):
        for name, digest in _installed_record(folder / site / package.info):
            path = os.path.normpath(f"{site}/{name}")
            if package.info not in listed or _by_installer(path, site, package.info):
                found.setdefault(path, set()).add(digest)
    for name, digest in bytecode:
        found.setdefault(f"{site}/{name}", set()).add(digest)
    return found


def differences(
    folder: Path, wanted: Expected, *, ignored: Collection[str] = (), seen: Seen | None = None
) -> tuple[int, list[Difference]]:
    """How many files are there, and what is wrong with them."""
    actual = {path: look for path, look in looks(folder, seen).items() if path not in ignored}
    wrong = [Difference(path, ADDED) for path in actual if path not in wanted]
    for path, digests in wanted.items():
        if OPTIONAL in digests:
            continue
        if path not in actual:
            wrong.append(Difference(path, MISSING))
        elif UNKNOWN not in digests and actual[path] not in digests:
            wrong.append(Difference(path, CHANGED))
    return len(actual), sorted(wrong)


def allow_bytecode(wanted: Expected, paths: Iterable[str], tag: str) -> None:
    """Where it is not known what was compiled, take any bytecode of Python files; `tag`: `cpython-311`."""
    for path in [path for path in paths if path.endswith(".py")]:
        folder, _, name = path.rpartition("/")
        wanted.setdefault(f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc", set()).add(OPTIONAL)


def _entries(folder: str | Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder but folders, by its path in it."""
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry


def _installed(name: str, site: str) -> str:
    """Where a wheel's file is put; empty if only the installer knows, or changes it on the way."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return f"{site}/{name}"
    scheme, _, inner = rest.partition("/")
    return {"purelib": f"{site}/{inner}", "platlib": f"{site}/{inner}", "data": inner}.get(scheme, "")


def _by_installer(path: str, site: str, info: str) -> bool:
    """Whether a file of the list in the environment may be there without being in the wheel's own."""
    inside = path.removeprefix(f"{site}/")
    return path == inside or inside in {f"{info}/{name}" for name in INSTALLERS}


def _installed_record(info: Path) -> Iterator[tuple[str, str]]:
    try:
        return _record((info / "RECORD").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return iter(())


def _record(text: str) -> Iterator[tuple[str, str]]:
    """Names and digests (hex) of a RECORD. Of itself and of signatures it knows none."""
    for name, digest, *_ in csv.reader(io.StringIO(text)):
        kind, _, value = digest.partition("=")
        known = kind == "sha256"
        yield name, base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex() if known else UNKNOWN
