"""jingxiang.pip_client, with real pip"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jingxiang import pip_client
from jingxiang.process import ProcessFailed
from tests.peers import system
from tests.peers.mirror import serving
from tests.peers.wheels import wheel

PYTHON = Path(sys.executable)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip as on a machine where nobody has set anything, and no proxy between us and ourselves."""
    for name in os.environ:
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with our own pip in it: `venv` itself takes four seconds to put one there."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    shutil.copytree(system.pip_package(), next(folder.glob("lib/python*/site-packages")) / "pip")
    return folder / "bin" / "python"


def lock(folder: Path, *lines: str) -> Path:
    path = folder / "toolkit.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def run(python: Path, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def refusal(python: Path, path: Path, links: Path) -> str:
    """What pip says when it does not install a lock."""
    with pytest.raises(ProcessFailed, match=r"^pip install ended with exit code 1\n") as caught:
        pip_client.install(python, path, links)
    return caught.value.message


def test_without_settings_there_are_only_pips_own_index_and_how_we_call_it() -> None:
    own = run(PYTHON, "from pip._internal.models.index import PyPI; print(PyPI.simple_url)")
    assert own.startswith("https://")
    assert pip_client.settings(PYTHON) == {"index-url": own, "config-file": os.devnull, "no-input": "1"}


def test_the_environment_beats_install_which_beats_global(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    machine = pip_client.settings(PYTHON)  # what /etc/pip.conf of this machine says: it cannot be switched off alone
    config.write_text(
        "[global]\n"
        "index-url = https://global.example/simple\n"
        "proxy = http://li:a=b@proxy.example:3128\n"
        "cert = /global.pem\n"
        "extra-index-url =\n    https://one.example/simple\n    https://two.example/simple\n"
        "[install]\n"
        "index-url = https://install.example/simple\n"
        "cert = /install.pem\n"
        "[download]\n"
        "proxy = http://download.example\n"
    )
    monkeypatch.setenv("PIP_INDEX_URL", "https://environment.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/one /two")
    assert pip_client.settings(PYTHON) == machine | {
        "index-url": "https://environment.example/simple",
        "proxy": "http://li:a=b@proxy.example:3128",
        "cert": "/install.pem",
        "extra-index-url": "https://one.example/simple https://two.example/simple",
        "find-links": "/one /two",
    }


def test_an_empty_variable_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in pip, which passes it over."""
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://global.example/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "")
    assert pip_client.settings(PYTHON)["index-url"] == "https://global.example/simple"


def test_a_lock_is_installed_from_a_folder_with_its_bytecode(
    tmp_path: Path, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    digest = wheel(tmp_path / "links", "rightone")
    path = lock(tmp_path, f"rightone==1.0 --hash=sha256:{'0' * 64} --hash=sha256:{digest}")
    pip_client.install(environment, path, tmp_path / "links")
    shown = run(environment, "import os, rightone; print(rightone.version, os.path.exists(rightone.__cached__))")
    assert shown == "1.0 True"


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path, environment: Path) -> None:
    wheel(tmp_path / "links", "wrongone")
    path = lock(tmp_path, f"wrongone==1.0 --hash=sha256:{'0' * 64}")
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refusal(environment, path, tmp_path / "links")
    assert run(environment, "import wrongone") == "ModuleNotFoundError: No module named 'wrongone'"


def test_a_file_without_a_hash_in_the_lock_is_not_installed(tmp_path: Path, environment: Path) -> None:
    wheel(tmp_path / "links", "bareone")
    said = refusal(environment, lock(tmp_path, "bareone==1.0"), tmp_path / "links")
    assert "Hashes are required in --require-hashes mode" in said


def test_no_server_and_no_other_folder_is_asked_whatever_pip_is_set_to(
    tmp_path: Path, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    digest = wheel(elsewhere, "farone")
    (tmp_path / "links").mkdir()
    path = lock(tmp_path, f"farone==1.0 --hash=sha256:{digest}")
    (tmp_path / "pip.conf").write_text(f"[install]\nfind-links = {elsewhere}\n")
    with serving() as mirror:
        mirror.files["/simple/farone/"] = f'<a href="/farone-1.0-py3-none-any.whl#sha256={digest}">x</a>'.encode()
        mirror.files["/farone-1.0-py3-none-any.whl"] = (elsewhere / "farone-1.0-py3-none-any.whl").read_bytes()
        for name in ("INDEX_URL", "EXTRA_INDEX_URL"):
            monkeypatch.setenv(f"PIP_{name}", f"{mirror.url}/simple")
        monkeypatch.setenv("PIP_FIND_LINKS", str(elsewhere))
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        said = refusal(environment, path, tmp_path / "links")
        assert mirror.connections == 0
    assert said.endswith("No matching distribution found for farone==1.0")
