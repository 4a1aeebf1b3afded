"""Tiny wheels, and folders that are indexes or pages of links to them."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path


def wheel(folder: Path, name: str, version: str = "1.0") -> str:
    """Write NAME-VERSION-py3-none-any.whl, a module that holds its version; returns its SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(content(name, version))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(name: str, version: str, size: int = 0) -> bytes:
    """A whole wheel with `size` bytes of data in it; the same every time."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if size:
        files[f"{name}.data.txt"] = bytes(size)
    record = "".join(f"{path},sha256={_digest(body)},{len(body)}\n" for path, body in files.items())
    record += f"{info}/RECORD,,\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for member, body in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(zipfile.ZipInfo(member, (2026, 1, 1, 0, 0, 0)), body)
    return stream.getvalue()


def _digest(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")


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
