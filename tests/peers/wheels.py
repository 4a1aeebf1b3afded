"""Tiny wheels, and folders that are indexes or pages of links to them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path


def wheel(folder: Path, name: str, version: str = "1.0") -> str:
    """Write NAME-VERSION-py3-none-any.whl, a module that holds its version; returns its SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(member, (2026, 1, 1, 0, 0, 0)), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pages(root: Path, files: Path) -> None:
    """Below `root/simple` an index (PEP 503) of the wheels in `files`, and at `root/flat` a page of links to them."""
    found = sorted(files.glob("*.whl"))
    links = {
        path: f"{path.name.replace('+', '%2B')}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in found
    }
    for path in found:
        project = root / "simple" / path.name.partition("-")[0]
        project.mkdir(parents=True, exist_ok=True)
        (project / path.name).write_bytes(path.read_bytes())
        with (project / "index.html").open("a") as page:
            page.write(f'<a href="{links[path]}">{path.name}</a><br>\n')
    flat = root / "flat"
    flat.mkdir(parents=True, exist_ok=True)
    for path in found:
        (flat / path.name).write_bytes(path.read_bytes())
    (flat / "index.html").write_text("".join(f'<a href="{links[path]}">{path.name}</a><br>\n' for path in found))
