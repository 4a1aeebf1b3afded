"""jingxiang.pip_client, with real pip and real indexes on this machine"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pip
import pytest

from jingxiang import mirrors, pip_client
from jingxiang.mirrors import MirrorSet, Source
from jingxiang.probe import Page

PYTHON = Path(sys.executable)
Serve = Callable[..., str]


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
    shutil.copytree(Path(pip.__file__).parent, next(folder.glob("lib/python*/site-packages")) / "pip")
    return folder / "bin" / "python"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a folder, each answer after a pause; returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path, after_s: float = 0) -> str:
        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(after_s)
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def index(root: Path, name: str, version: str = "1.0") -> str:
    """Puts a wheel with one module into a simple index below the root; returns the wheel's SHA-256."""
    folder, info = root / "simple" / name, f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},sha256={urlsafe_sha256(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="{wheel.name}#sha256={digest}">{wheel.name}</a>\n')
    return digest


def urlsafe_sha256(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def lock(folder: Path, *lines: str) -> Path:
    path = folder / "toolkit.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def source(url: str, mirror: str = "near") -> Source:
    return Source(mirror, mirror, "pypi", "pep503", url)


def known(tmp_path: Path, **urls: str) -> MirrorSet:
    """Mirrors of pypi, after `official`."""
    tables = [f'[{name}]\npypi = {{ layout = "pep503", url = "{url}" }}\n' for name, url in urls.items()]
    (tmp_path / "mirrors.toml").write_text("[official]\n" + "".join(tables))
    return mirrors.load(tmp_path)


def run(python: Path, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_without_settings_there_are_none_but_how_we_call_pip() -> None:
    assert pip_client.settings(PYTHON) == {"config-file": os.devnull, "no-input": "1"}


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


def test_the_index_is_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://company.example/simple")
    assert pip_client.index(PYTHON) == "https://company.example/simple"


def test_without_settings_the_index_is_pips_own() -> None:
    own = run(PYTHON, "from pip._internal.models.index import PyPI; print(PyPI.simple_url)")
    assert own.startswith("https://")
    assert pip_client.index(PYTHON) == own


def test_the_page_asked_for_is_that_of_the_package_with_fewest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = ("a" * 64, "b" * 64, "c" * 64)
    path = lock(tmp_path, f"many==1 --hash=sha256:{a} --hash=sha256:{b}", f"one==1 --hash=sha256:{c}")
    monkeypatch.setenv("PIP_INDEX_URL", "https://company.example/simple")
    asked = pip_client.pages(known(tmp_path, near="https://near.example/simple/"), path, PYTHON)
    assert asked == {
        "official": Page("https://company.example/simple/one/", c),
        "near": Page("https://near.example/simple/one/", c),
    }


def test_mirrors_are_ranked_as_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    digest = index(tmp_path / "all", "tiny")
    index(tmp_path / "old", "tiny", "0.9")
    path = lock(tmp_path, f"tiny==1.0 --hash=sha256:{digest}")
    monkeypatch.setenv("PIP_INDEX_URL", serve(tmp_path / "all", 0.2) + "/simple")
    choices = known(
        tmp_path,
        old=serve(tmp_path / "old") + "/simple",
        slow=serve(tmp_path / "all", 0.4) + "/simple",
        near=serve(tmp_path / "all") + "/simple",
    )
    ranked = [each.mirror for each in pip_client.ranked(choices, "auto", path, PYTHON)]
    assert ranked == ["near", "official", "slow", "old"]


def test_a_chosen_mirror_is_not_measured(tmp_path: Path) -> None:
    choices = known(tmp_path, first="https://first.example/simple", second="https://second.example/simple")
    no_lock = tmp_path / "not-read.txt"
    ranked = [each.mirror for each in pip_client.ranked(choices, "second", no_lock, PYTHON)]
    assert ranked == ["second", "first", "official"]


def test_a_lock_is_installed_from_a_mirror_with_its_bytecode(
    tmp_path: Path, environment: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    digest = index(tmp_path, "rightone")
    path = lock(tmp_path, f"rightone==1.0 --hash=sha256:{'0' * 64} --hash=sha256:{digest}")
    assert pip_client.install(environment, path, source(serve(tmp_path) + "/simple")) == (0, "")
    shown = run(environment, "import os, rightone; print(rightone.VERSION, os.path.exists(rightone.__cached__))")
    assert shown == "1.0 True"


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path, environment: Path, serve: Serve) -> None:
    index(tmp_path, "wrongone")
    path = lock(tmp_path, f"wrongone==1.0 --hash=sha256:{'0' * 64}")
    code, output = pip_client.install(environment, path, source(serve(tmp_path) + "/simple"))
    assert code == 1
    assert pip_client.reason(output).startswith("THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE")
    assert run(environment, "import wrongone") == "ModuleNotFoundError: No module named 'wrongone'"


def test_a_file_without_a_hash_in_the_lock_is_not_installed(tmp_path: Path, environment: Path, serve: Serve) -> None:
    index(tmp_path, "bareone")
    code, output = pip_client.install(environment, lock(tmp_path, "bareone==1.0"), source(serve(tmp_path) + "/simple"))
    assert (code, "Hashes are required in --require-hashes mode" in output) == (1, True)


def test_a_mirror_without_the_package_is_said_in_pips_words(tmp_path: Path, environment: Path, serve: Serve) -> None:
    path = lock(tmp_path, f"absent==1.0 --hash=sha256:{'0' * 64}")
    code, output = pip_client.install(environment, path, source(serve(tmp_path) + "/simple"))
    assert (code, pip_client.reason(output)) == (1, "No matching distribution found for absent==1.0")


def test_official_is_the_index_that_pip_is_set_to(
    tmp_path: Path, environment: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = index(tmp_path, "officialone")
    path = lock(tmp_path, f"officialone==1.0 --hash=sha256:{digest}")
    monkeypatch.setenv("PIP_INDEX_URL", serve(tmp_path) + "/simple")
    assert pip_client.install(environment, path, source("", "official")) == (0, "")
    assert run(environment, "import officialone; print(officialone.VERSION)") == "1.0"


def test_the_reason_is_the_last_error_in_one_line() -> None:
    output = "WARNING: x\nERROR: Could not find a version\nERROR: No matching distribution\nplease upgrade\n"
    assert pip_client.reason(output) == "No matching distribution"
    assert pip_client.reason("first\nlast\n") == "last"
    assert pip_client.reason("") == "?"
    assert pip_client.reason("ERROR: " + "x" * 400) == "x" * 300


def test_a_reason_holds_no_password() -> None:
    said = "WARNING: retrying\nERROR: 401 for url https://me:hunter2@index.example/simple/numpy/\n"
    assert pip_client.reason(said) == "401 for url https://…@index.example/simple/numpy/"
