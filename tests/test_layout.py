"""What lies where in the repository, and what no file of it may hold"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from jingxiang import tables
from jingxiang.locks import ORIGIN

ROOT = Path(__file__).resolve().parent.parent
TOP = {
    # the table of the design
    "tasks.py", "mirrors.toml", "envs", "docker", "app", "jingxiang", "ci", "tests",
    # what tools and people look for at the top
    "pyproject.toml", "LICENSE", ".gitignore", ".dockerignore", ".ci", "README.md", "README.zh-CN.md",
}  # fmt: skip
LOCKS = sorted((ROOT / "envs" / "locks").iterdir())


def committed() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name]


@functools.cache
def registry_hosts() -> list[str]:
    """What pip asks when nothing is configured: the index's host, and that of its files."""
    code = "from pip._internal.models.index import PyPI; print(PyPI.netloc, PyPI.file_storage_domain)"
    hosts = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(hosts) == 2
    assert all("." in host for host in hosts)
    return hosts


def test_the_top_level_is_as_designed() -> None:
    assert {name.partition("/")[0] for name in committed()} - {"docs"} == TOP


def test_docker_is_a_folder_of_data_that_cannot_hide_the_sdk() -> None:
    folder = ROOT / "docker"
    assert folder.is_dir()
    assert [path.name for path in folder.rglob("*") if path.suffix == ".py" or path.stem == "__init__"] == []


def test_every_package_is_named_for_the_installation() -> None:
    named = tables.read(ROOT / "pyproject.toml").table("tool").table("setuptools").values["packages"]
    files = [path for top in ("jingxiang", "app") for path in (ROOT / top).rglob("*.py")]
    assert {path.parent for path in files} == {path.parent for path in files if path.name == "__init__.py"}
    assert sorted(named) == sorted({".".join(path.parent.relative_to(ROOT).parts) for path in files})


def test_no_file_names_a_host_of_the_default_registry() -> None:
    """They are where the client's own configuration leads; whoever has a company index must not be sent past it."""
    hosts = [host.encode() for host in registry_hosts()]
    texts = {name: (ROOT / name).read_bytes() for name in committed() if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if any(host in text for host in hosts)] == []


def test_there_are_locks() -> None:
    assert {path.name for path in LOCKS} >= {"toolkit.txt", "cpu.txt", "cuda12.txt", "cuda13.txt", "dev.txt"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_holds_no_address(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8").replace(f"url: {ORIGIN}/conda-forge/", "")  # what conda calls a package by
    assert [line for line in text.splitlines() if "://" in line or registry_hosts()[0] in line] == []
