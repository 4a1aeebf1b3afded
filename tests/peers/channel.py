"""A real conda channel: packages as conda-build writes them, and the index that rattler makes of them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import marshal
import os
import platform
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conda_package_streaming.create import conda_builder

TIME_MS = 1_700_000_000_000
# What conda-build fills the path of its own environment up to: 255 bytes.
PLACEHOLDER = "/home/conda/build/" + "placehold_" * 23 + "pl_env"
# Of the standard library; the rest is large, and not needed by an installer of packages.
LEFT_OUT = {
    "__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests",
    "tkinter", "turtledemo",
}  # fmt: skip
COMPILED = ("colorsys.py", "json/tool.py")  # with bytecode in the package; the more, the slower


@dataclass(frozen=True)
class File:
    """What a package puts somewhere: bytes, or (`link`) a symbolic link.

    `mode`: `text` or `binary` if the bytes hold `PLACEHOLDER`, which installers replace.
    """

    body: bytes = b""
    link: str = ""
    mode: str = ""
    executable: bool = False

    @property
    def listed(self) -> dict[str, object]:
        """As in `info/paths.json`."""
        kind = "softlink" if self.link else "hardlink"
        entry = {"path_type": kind, "sha256": hashlib.sha256(self.body).hexdigest(), "size_in_bytes": len(self.body)}
        return entry | ({"prefix_placeholder": PLACEHOLDER, "file_mode": self.mode} if self.mode else {})


def package(channel: Path, name: str, version: str = "1.0", *, subdir: str = "linux-64", size: int = 0) -> Path:
    """Write NAME-VERSION-0.conda with a text and a file of `size` bytes; the same bytes every time."""
    text, data = File(f"{name} {version}\n".encode()), File(_noise(name, size))
    return write(channel, name, version, {f"share/{name}.txt": text, f"share/{name}.data": data}, subdir=subdir)


def write(
    channel: Path,
    name: str,
    version: str,
    files: Mapping[str, File],
    *,
    subdir: str = "linux-64",
    depends: Sequence[str] = (),
    entry_points: Sequence[str] = (),
    old: bool = False,
) -> Path:
    """Write NAME-VERSION-0.conda (`old`: .tar.bz2). `entry_points`: of a package for any Python, as its `link.json`
    has them."""
    folder = channel / subdir
    folder.mkdir(parents=True, exist_ok=True)
    noarch = subdir == "noarch"
    index = {
        "name": name, "version": version, "build": "0", "build_number": 0, "depends": list(depends), "subdir": subdir,
        "license": "MIT", "timestamp": TIME_MS, "arch": None if noarch else "x86_64",
        "platform": None if noarch else "linux", **({"noarch": "python"} if entry_points else {}),
    }  # fmt: skip
    paths = [{"_path": path, **file.listed} for path, file in files.items()]
    info = {
        "info/index.json": json.dumps(index),
        "info/paths.json": json.dumps({"paths_version": 1, "paths": paths}),
        "info/about.json": "{}",
        "info/files": "\n".join(files),
    }
    if entry_points:
        link = {"noarch": {"type": "python", "entry_points": list(entry_points)}, "package_metadata_version": 1}
        info["info/link.json"] = json.dumps(link)
    members = {**{path: File(text.encode()) for path, text in info.items()}, **files}
    stem = f"{name}-{version}-0"
    if old:
        with tarfile.open(folder / f"{stem}.tar.bz2", "w:bz2") as archive:
            _add(archive, members)
        return folder / f"{stem}.tar.bz2"
    with conda_builder(stem, str(folder), compression_level=3) as building:
        _add(building, members)
    return folder / f"{stem}.conda"


def python(channel: Path) -> Path:
    """The Python that runs us as a package of conda-forge has it."""
    program = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    return python_of(
        channel, platform.python_version(), program.read_bytes(), Path(os.__file__).parent, base=sys.base_prefix
    )


def python_of(channel: Path, version: str, program: bytes, library: Path, *, base: str) -> Path:
    """A Python as a package of conda-forge has it: its program, its standard library, files that carry the path of the
    environment, and bytecode that holds the time of its source. `base`: the path that it was built for."""
    name = f"python{'.'.join(version.split('.')[:2])}"
    files = {
        f"bin/{name}": File(program, executable=True),
        "bin/python3": File(link=name),
        "bin/python": File(link=name),
        f"bin/pydoc{name.removeprefix('python')}": File(
            f"#!{PLACEHOLDER}/bin/{name}\nimport pydoc\npydoc.cli()\n".encode(), mode="text", executable=True
        ),
        "lib/placed.bin": File(b"\0\1" + f"{PLACEHOLDER}/share:{PLACEHOLDER}/lib\0\0 end\0".encode(), mode="binary"),
        f"lib/{name}/site-packages/README.txt": File(b"packages go here\n"),
    }
    if b"dist-packages" in (library / "site.py").read_bytes():  # Debian's, which is compiled into the program
        files["lib/python3/dist-packages"] = File(link=f"../{name}/site-packages")
    for folder, below, found in os.walk(library):
        below[:] = [each for each in below if each not in LEFT_OUT and not each.startswith("config-")]
        for each in found:
            path = Path(folder, each)
            files[f"lib/{name}/{path.relative_to(library)}"] = _of_library(path.resolve(), base)
    for source in (f"lib/{name}/{each}" for each in COMPILED):
        files[importlib.util.cache_from_source(source)] = File(_compiled(source, files[source].body))
    return write(channel, "python", version, files)


def index(channel: Path) -> None:
    """Write repodata.json and repodata.json.zst of each platform.

    In a process that ends at once: py-rattler's threads may crash a Python that takes its time.
    """
    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    code = (
        "import asyncio, os, sys; from rattler.index import index_fs; "
        "asyncio.run(index_fs(sys.argv[1], write_zst=True, write_shards=False)); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, channel], check=True, capture_output=True)


def _of_library(path: Path, base: str) -> File:
    body = path.read_bytes()
    if path.name == "sysconfig.py":  # Debian has places of its own for packages, but not in environments
        body = body.replace(b'sys.base_prefix != sys.prefix or hasattr(sys, "real_prefix")', b"True")
    if path.name.startswith("_sysconfigdata"):
        return File(body.replace(base.encode(), PLACEHOLDER.encode()), mode="text")
    return File(body)


def _compiled(path: str, source: bytes) -> bytes:
    """What Python keeps of a source that was changed last at the time of all files of a package (PEP 552)."""
    words = (0, TIME_MS // 1000, len(source))
    code = marshal.dumps(compile(source, path, "exec", dont_inherit=True))
    return importlib.util.MAGIC_NUMBER + b"".join(word.to_bytes(4, "little") for word in words) + code


def _add(archive: tarfile.TarFile, members: Mapping[str, File]) -> None:
    for path, file in members.items():
        member = tarfile.TarInfo(path)
        member.mtime, member.mode = TIME_MS // 1000, 0o755 if file.executable else 0o644
        if file.link:
            member.type, member.linkname = tarfile.SYMTYPE, file.link
            archive.addfile(member)
        else:
            member.size = len(file.body)
            archive.addfile(member, io.BytesIO(file.body))


def _noise(name: str, size: int) -> bytes:
    """Bytes that do not compress, so that the package has about that size."""
    return hashlib.shake_256(name.encode()).digest(size)
