"""A real conda channel: packages as conda-build writes them, and the index that rattler makes of them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from pathlib import Path

from conda_package_streaming.create import conda_builder
from rattler.index import index_fs

TIME_MS = 1_700_000_000_000


def package(channel: Path, name: str, version: str = "1.0", *, subdir: str = "linux-64", size: int = 0) -> Path:
    """Write NAME-VERSION-0.conda with one file of `size` zero bytes; the same bytes every time."""
    folder = channel / subdir
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"share/{name}.txt": f"{name} {version}\n".encode(), f"share/{name}.data": _noise(name, size)}
    noarch = subdir == "noarch"
    index = {
        "name": name, "version": version, "build": "0", "build_number": 0, "depends": [], "subdir": subdir,
        "license": "MIT", "timestamp": TIME_MS, "arch": None if noarch else "x86_64",
        "platform": None if noarch else "linux",
    }  # fmt: skip
    paths = [
        {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(body).hexdigest(), "size_in_bytes": len(body)}
        for path, body in files.items()
    ]
    info = {
        "info/index.json": json.dumps(index),
        "info/paths.json": json.dumps({"paths_version": 1, "paths": paths}),
        "info/about.json": "{}",
        "info/files": "\n".join(files),
    }
    with conda_builder(f"{name}-{version}-0", str(folder)) as archive:
        for path, body in [*((path, text.encode()) for path, text in info.items()), *files.items()]:
            member = tarfile.TarInfo(path)
            member.size, member.mtime, member.mode = len(body), TIME_MS // 1000, 0o644
            archive.addfile(member, io.BytesIO(body))
    return folder / f"{name}-{version}-0.conda"


def index(channel: Path) -> None:
    """Write repodata.json and repodata.json.zst of each platform."""
    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    asyncio.run(index_fs(channel, write_zst=True, write_shards=False))


def _noise(name: str, size: int) -> bytes:
    """Bytes that do not compress, so that the package has about that size."""
    return hashlib.shake_256(name.encode()).digest(size)
