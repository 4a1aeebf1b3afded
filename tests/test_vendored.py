"""jingxiang.vendored, in real Pythons with and without packages"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from jingxiang import vendored
from tests.peers import system

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")


def bare(python: str | Path, code: str, *folders: Path) -> str:
    """What a Python without site-packages prints, with our own modules and those in the folders."""
    head = f"import sys; sys.path[:0] = {[str(each) for each in (ROOT, *folders)]}; from jingxiang import vendored\n"
    done = subprocess.run([python, "-I", "-S", "-c", head + code], capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def test_what_is_installed_comes_first() -> None:
    found = vendored.module("packaging")
    assert (found.__name__, found.__version__) == ("packaging", importlib.metadata.version("packaging"))


def test_what_is_not_installed_comes_from_the_pip_that_is(tmp_path: Path) -> None:
    (tmp_path / "pip").symlink_to(system.pip_package())
    code = "found = vendored.module('tomli'); print(found.__name__, found.__file__)"
    assert bare(sys.executable, code, tmp_path) == f"pip._vendor.tomli {tmp_path}/pip/_vendor/tomli/__init__.py\n"


def test_without_tomllib_the_pip_that_python_carries_reads_toml() -> None:
    """A bare Python 3.10: neither tomllib nor anything installed."""
    code = (
        "before = list(sys.path)\n"
        "reader = vendored.module('tomli')\n"
        "assert sys.path == before\n"
        "print(reader.__name__, reader.loads('a = [1, 2]'))\n"
    )
    assert bare(sys.executable, code) == "pip._vendor.tomli {'a': [1, 2]}\n"


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_bare_python_can_choose_wheels_and_trust_servers(version: str) -> None:
    """All that the bootstrap needs before anything is installed."""
    pythons = system.pythons()
    if version not in pythons:
        pytest.skip(f"no Python {version} on this machine")
    code = (
        "from pathlib import Path\n"
        "from jingxiang.fetch.resolve import target\n"
        "from jingxiang.locks import LockedPackage\n"
        f"here = target({version!r})\n"
        "print(here.tags[0].split('-')[0], here.rank('x-1-py3-none-any.whl') is not None, here.rank('x-1.tar.gz'))\n"
        f"print(here.wants(LockedPackage('x', '1', \"python_version == '{version}'\", ())))\n"
        "print(Path(vendored.module('certifi').where()).read_text().count('BEGIN CERTIFICATE') > 100)\n"
    )
    assert bare(pythons[version], code) == f"cp{version.replace('.', '')} True None\nTrue\nTrue\n"


def test_what_nobody_carries_is_an_import_error_and_leaves_no_trace() -> None:
    code = (
        "before = list(sys.path)\n"
        "try:\n    vendored.module('nobody')\n"
        "except ImportError as error:\n    print(error, sys.path == before)\n"
    )
    assert bare(sys.executable, code) == "No module named 'pip._vendor.nobody' True\n"
