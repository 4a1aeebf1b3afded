"""Conda packages in the store: what each of them puts into an environment, byte for byte, and where.

A package lists its files (`info/paths.json`), among them those that carry the path of the environment they were built
in, which an installer replaces by that of the environment they come to. Both is done here again, from the package
itself, whose hash is in the lock: what installers note of it is not believed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jingxiang import storage, views
from jingxiang.digest import canonical_json, sha256_bytes
from jingxiang.file_lock import held
from jingxiang.inventory import LINK
from jingxiang.locks import CondaPackage
from jingxiang.store import Store
from jingxiang.wheels import CONDA

META = "conda-meta"
# What installers note about themselves and this machine: it says nothing about the environment, and differs anywhere.
OF_THE_MACHINE = ("extracted_package_dir", "package_tarball_full_path", "link", "requested_spec", "requested_specs")
OF_THE_INSTALLER = ("CACHEDIR.TAG", f"{META}/.mamba_lock", f"{META}/state")
# Read by uv: scripts find their Python beside them, so the folder may be renamed. Read by Python: packages of the
# user's home stay out, as in every virtual environment.
SETTINGS = "include-system-site-packages = false\nrelocatable = true\n"
ENV = b"#!/usr/bin/env "
LONGEST_SHEBANG = 127  # bytes that every Linux reads


@dataclass(frozen=True)
class CondaFiles:
    """The packages of a lock, as files of the store."""

    store: Store
    packages: tuple[CondaPackage, ...]

    @property
    def complete(self) -> bool:
        return all(self.store.has(each.sha256) for each in self.packages)

    def sound(self) -> CondaFiles:
        """Those that are in the store, and are what they are called."""
        return CondaFiles(self.store, tuple(each for each in self.packages if self.store.is_sound(each.sha256)))

    @contextlib.contextmanager
    def room(self, workshop: Path, engine: str) -> Iterator[Path]:
        """A folder in which an engine can unpack, and finds again what it has unpacked before.

        The files of the packages are in its `pkgs`, by their names, for as long as one process has it. Raises
        `Damaged`, `Missing`.
        """
        for each in self.packages:  # engines check some hashes, sometimes
            self.store.check(each.sha256)
        root = workshop / CONDA / engine
        with storage.writing(root):
            (root / "pkgs").mkdir(parents=True, exist_ok=True)
        with held(workshop / f"{CONDA}.lock"):
            links = {root / "pkgs" / each.file: self.store.blob(each.sha256) for each in self.packages}
            try:
                with storage.writing(root):
                    for link, blob in links.items():
                        link.unlink(missing_ok=True)  # of a process that was killed
                        views.place(blob, link)
                yield root
            finally:
                for link in links:
                    link.unlink(missing_ok=True)

    def tidy(self, folder: Path, final: Path) -> None:
        """Make what was installed say nothing of this machine, of the installer, or of the time; and make scripts start
        the Python of the environment, which is going to be called `final`, whatever its path is like."""
        for name in OF_THE_INSTALLER:
            (folder / name).unlink(missing_ok=True)
        names = {each.file: each for each in self.packages}
        for path in sorted((folder / META).glob("*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            for entry in record["paths_data"]["paths"]:
                file = folder / entry["_path"]
                holds_path = entry.get("sha256_in_prefix") not in (None, entry.get("sha256"))
                if holds_path and file.is_file() and not file.is_symlink():
                    entry["sha256_in_prefix"] = _startable(file, os.fsencode(final))
            package = names[record["fn"]]
            kept = {key: value for key, value in record.items() if key not in OF_THE_MACHINE}
            origin = package.url.removesuffix(f"/{package.path}")
            path.write_bytes(canonical_json({**kept, "url": package.url, "channel": origin}) + b"\n")
        (folder / META / "history").write_text("", encoding="utf-8")  # what makes it an environment for conda
        (folder / "pyvenv.cfg").write_text(SETTINGS, encoding="utf-8")

    def expected(self, prefix: Path, site: str) -> dict[str, set[str]]:
        """Every file that the packages bring, by its path below the environment, with each digest that it may have (of
        a file of several packages, that of any).

        `prefix`: what the environment is called; `site`: where its Python packages are. What installers make on their
        own (scripts for entry points, their notes) is not in it.
        """
        found: dict[str, set[str]] = {}
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for part in pool.map(lambda package: self._expected(package, str(prefix), site), self.packages):
                for path, digests in part.items():
                    found.setdefault(path, set()).update(digests)
        return found

    def _expected(self, package: CondaPackage, prefix: str, site: str) -> dict[str, set[str]]:
        body = self.store.blob(package.sha256).read_bytes()
        info = {name: json.loads(text) for name, text in _members(package.file, body, "info") if name.endswith(".json")}
        paths = {str(each["_path"]): each for each in info["info/paths.json"]["paths"]}
        python = info["info/index.json"].get("noarch") == "python"
        found: dict[str, set[str]] = {}
        for name, content in _members(package.file, body, "pkg"):
            if isinstance(content, str):
                digests = {content}
            elif placeholder := paths.get(name, {}).get("prefix_placeholder"):
                mode = paths[name].get("file_mode", "text")
                digests = {sha256_bytes(_placed(content, placeholder.encode(), os.fsencode(prefix), mode))}
            else:
                digests = {sha256_bytes(content)}
            found[_noarch(name, site) if python else name] = digests
        return found


def index(name: str, file: Path) -> Mapping[str, Any]:
    """What a package says of itself, as a channel lists it; `name`: of the package's file."""
    members = dict(_members(name, file.read_bytes(), "info"))
    found: Mapping[str, Any] = json.loads(members["info/index.json"])
    return found


def _members(file: str, body: bytes, part: str) -> Iterator[tuple[str, Any]]:
    """The files of one part of a package: name and bytes, or of a symbolic link where it leads.

    `part`: `info`, or `pkg` for all else.
    """
    from conda_package_streaming import package_streaming

    component = package_streaming.CondaComponent(part)
    seen: dict[str, Any] = {}
    for archive, member in package_streaming.stream_conda_component(file, io.BytesIO(body), component):
        name = member.name.removeprefix("./")
        if member.isdir() or name.startswith("info/") != (part == "info"):
            continue
        if member.issym():
            seen[name] = f"{LINK}{member.linkname}"
        elif member.islnk():
            seen[name] = seen[member.linkname.removeprefix("./")]
        else:
            seen[name] = _read(archive, member)
        yield name, seen[name]


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    reading = archive.extractfile(member)
    assert reading is not None, member.name
    return reading.read()


def _noarch(name: str, site: str) -> str:
    """Where a file of a package for any Python is put (conda's `noarch: python`)."""
    top, _, rest = name.partition("/")
    return {"site-packages": f"{site}/{rest}", "python-scripts": f"bin/{rest}"}.get(top, name)


def _placed(content: bytes, old: bytes, new: bytes, mode: str) -> bytes:
    """A file with the path that it was built for replaced by the environment's: in text as it is; in a program each
    string that begins with it is filled up with zeros, so that nothing moves."""
    if mode != "binary":
        return _started(content.replace(old, new), new)
    strings = re.compile(re.escape(old) + rb"[^\0]*\0")
    return strings.sub(lambda match: match[0].rstrip(b"\0").replace(old, new).ljust(len(match[0]), b"\0"), content)


def _started(text: bytes, prefix: bytes) -> bytes:
    """A script whose first line Linux would not read, because it is too long or has a blank in it, started by a shell
    instead: to Python the same line is a string."""
    line, end, rest = text.partition(b"\n")
    program, _, words = line.removeprefix(b"#!").strip().removeprefix(prefix).partition(b" ")
    if not line.startswith(b"#!" + prefix) or not (len(line) > LONGEST_SHEBANG or b" " in prefix):
        return text
    words = b" " + words if words else b""
    return b"".join([b"#!/bin/sh\n'''exec' \"", prefix, program, b'"', words, b' "$0" "$@" #\'\'\'', end, rest])


def _startable(path: Path, prefix: bytes) -> str:
    """Have a script started as `_started` says, where an installer has a way of its own; returns the file's digest.

    micromamba leaves blanks in the line, and instead of a long one has the first Python of PATH.
    """
    content = path.read_bytes()
    line, end, rest = content.partition(b"\n")
    wanted = content
    if line.startswith(ENV):
        whole = b"#!" + prefix + b"/bin/" + line.removeprefix(ENV)
        wanted = _started(whole + end + rest, prefix) if len(whole) > LONGEST_SHEBANG else content
    elif line.startswith(b"#!"):
        wanted = _started(content, prefix)
    if wanted != content:
        mode = path.stat().st_mode
        path.unlink()  # it may be a link to what the next environment is made of
        path.write_bytes(wanted)
        path.chmod(mode)
    return sha256_bytes(wanted)
