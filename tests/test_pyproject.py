"""pyproject.toml: the packages, and what is beside the code in them"""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

from jingxiang import tables

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("app", "jingxiang")


def tracked() -> list[PurePosixPath]:
    """The files of the packages that git knows or would take."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *TOPS]
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [PurePosixPath(name) for name in filter(None, listed.split("\0")) if (ROOT / name).exists()]


def test_every_package_is_listed() -> None:
    found = {".".join(path.parent.parts) for path in tracked() if path.name == "__init__.py"}
    listed = tables.read(ROOT / "pyproject.toml").table("tool").table("setuptools").strings("packages")
    assert sorted(listed) == sorted(found)


def test_every_file_beside_the_code_is_package_data() -> None:
    data = tables.read(ROOT / "pyproject.toml").table("tool").table("setuptools").table("package-data")
    patterns = {name: data.strings(name) for name in data.values}
    missing = []
    for path in (each for each in tracked() if each.suffix != ".py"):
        own = {
            f"{name.replace('.', '/')}/{pattern}"
            for name, each in patterns.items()
            for pattern in each
            if path.is_relative_to(name.replace(".", "/"))
        }
        if not any(path.match(pattern) for pattern in own):
            missing.append(str(path))
    assert missing == []
