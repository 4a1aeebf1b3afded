"""jingxiang.uv_client, with real uv and real indexes on this machine"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from jingxiang import uv_client
from jingxiang.mirrors import Source

# What every source gets: nothing of the machine's own uv configuration, one retry, an impatient time-out.
ALWAYS = {
    "UV_NO_CONFIG": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_HTTP_RETRIES": "1",
    "UV_HTTP_TIMEOUT": "15",
    "UV_INDEX_STRATEGY": "unsafe-best-match",
}
OFFICIAL = Source("official", "official", "pypi", "pep503", "")
NAMED = Source("near", "near", "pypi", "pep503", "https://near.example/simple")
FLAT = Source("near", "near", "torch", "flat", "https://near.example/wheels/{build}/")
SECRET = "s3cret-of-nobody"
PAGE = "/simple/tiny/"

Serve = Callable[[dict[str, bytes]], "Index"]


class Index:
    """A server of fixed answers that notes who asked for what, and with which arguments uv was running."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.arguments: list[str] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers["Authorization"]))
                for child in psutil.Process().children():
                    index.arguments += child.cmdline()
                body = answers.get(self.path.removeprefix("http://nowhere.invalid"))
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body or b"")

            do_HEAD = do_GET  # noqa: N815 (how http.server finds it)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("UV_", "PIP_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[Index] = []

    def start(answers: dict[str, bytes]) -> Index:
        started.append(Index(answers))
        return started[-1]

    yield start
    for index in started:
        index.server.shutdown()
        index.server.server_close()


def wheel(folder: Path, name: str = "tiny", version: str = "1.0") -> Path:
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def answers(file: Path) -> dict[str, bytes]:
    """A simple index with that one wheel."""
    link = f'<a href="{file.name}#sha256={sha256(file)}">{file.name}</a>'
    return {PAGE: link.encode(), PAGE + file.name: file.read_bytes()}


def added(env: dict[str, str]) -> dict[str, str]:
    """What the child gets and we do not have."""
    return {name: value for name, value in env.items() if os.environ.get(name) != value}


def test_a_mirror_takes_the_place_of_the_default_index() -> None:
    env = uv_client.environment(NAMED, {})
    assert added(env) == {**ALWAYS, "UV_DEFAULT_INDEX": "https://near.example/simple"}


def test_a_flat_mirror_is_a_page_of_links_for_one_build() -> None:
    env = uv_client.environment(FLAT, {}, build="cpu")
    assert added(env) == {**ALWAYS, "UV_FIND_LINKS": "https://near.example/wheels/cpu/"}


def test_official_without_settings_is_uvs_own_default() -> None:
    assert added(uv_client.environment(OFFICIAL, {})) == ALWAYS


def test_official_means_everything_that_pip_is_set_to() -> None:
    settings = {
        "index-url": "https://company.example/simple",
        "extra-index-url": "https://one.example/simple https://two.example/simple",
        "find-links": "/one",
        "cert": "/company.pem",
        "proxy": "http://proxy.example:3128",
        "trusted-host": "company.example",
        "default-timeout": "180",
        "no-input": "1",
    }
    assert added(uv_client.environment(OFFICIAL, settings)) == {
        **ALWAYS,
        "UV_DEFAULT_INDEX": "https://company.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/one",
        "SSL_CERT_FILE": "/company.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "HTTP_PROXY": "http://proxy.example:3128",
        "UV_INSECURE_HOST": "company.example",
        "UV_HTTP_TIMEOUT": "180",
    }


@pytest.mark.parametrize("source", [NAMED, FLAT])
def test_a_mirror_gets_the_machines_ca_and_proxy_but_not_its_indexes(source: Source) -> None:
    settings = {
        "index-url": "https://company.example/simple",
        "extra-index-url": "https://one.example/simple",
        "find-links": "/one",
        "cert": "/company.pem",
        "proxy": "http://proxy.example:3128",
    }
    extra = uv_client.environment(source, settings).items() - uv_client.environment(source, {}).items()
    assert dict(extra) == {
        "SSL_CERT_FILE": "/company.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "HTTP_PROXY": "http://proxy.example:3128",
    }


def test_the_users_own_uv_settings_stay_out_but_the_cache_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_INDEX", "UV_OFFLINE", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "1")
    env = uv_client.environment(NAMED, {})
    assert env.keys() & {"UV_INDEX", "UV_OFFLINE", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"} == set()
    assert env["UV_CACHE_DIR"] == os.environ["UV_CACHE_DIR"]
    assert env["PATH"] == os.environ["PATH"]


def test_all_folders_of_links_that_pip_is_set_to_are_searched(tmp_path: Path) -> None:
    """pip separates them with blanks, uv with commas."""
    wheel(tmp_path / "a", "one")
    wheel(tmp_path / "b", "two")
    spec = tmp_path / "spec.in"
    spec.write_text("one\ntwo\n")
    settings = {"find-links": f"{tmp_path / 'a'} {tmp_path / 'b'}"}
    env = uv_client.environment(OFFICIAL, settings)
    done = uv_client.compile_lock(spec, tmp_path / "lock.txt", ["--no-index"], env)
    assert done.stderr == ""
    lines = (tmp_path / "lock.txt").read_text().splitlines()
    assert [line.rstrip(" \\") for line in lines if "==" in line] == ["one==1.0", "two==1.0"]


def test_a_password_in_an_address_reaches_the_index_but_no_argument(tmp_path: Path, serve: Serve) -> None:
    file = wheel(tmp_path)
    index = serve(answers(file))
    spec = tmp_path / "spec.in"
    spec.write_text("tiny\n")
    source = Source("near", "near", "pypi", "pep503", f"http://li:{SECRET}@{index.address}/simple")
    done = uv_client.compile_lock(spec, tmp_path / "lock.txt", [], uv_client.environment(source, {}))
    assert done.stderr == ""
    login = "Basic " + base64.b64encode(f"li:{SECRET}".encode()).decode()
    assert (PAGE, login) in index.asked
    assert "compile" in index.arguments  # it is uv that was looked at
    assert [each for each in index.arguments if SECRET in each] == []
    assert (tmp_path / "lock.txt").read_text() == f"tiny==1.0 \\\n    --hash=sha256:{sha256(file)}\n"


def test_uv_asks_through_pips_proxy(tmp_path: Path, serve: Serve) -> None:
    proxy = serve(answers(wheel(tmp_path)))
    spec = tmp_path / "spec.in"
    spec.write_text("tiny\n")
    settings = {"proxy": f"http://{proxy.address}", "index-url": "http://nowhere.invalid/simple"}
    done = uv_client.compile_lock(spec, tmp_path / "lock.txt", [], uv_client.environment(OFFICIAL, settings))
    assert done.stderr == ""
    assert {path for path, _ in proxy.asked} >= {f"http://nowhere.invalid{PAGE}"}


def test_only_locked_files_are_installed(tmp_path: Path) -> None:
    links, cache = tmp_path / "links", tmp_path / "cache"
    file = wheel(links)
    folder = tmp_path / "environment"
    made = uv_client.make_environment(folder, "3.11", cache=tmp_path / "cache")
    assert (made.code, made.stdout, made.stderr) == (0, "", "")
    python = folder / "bin" / "python"
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("Python 3.11.")

    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    wrong = uv_client.install(requirements, python, links=links, cache=cache, show=False)
    assert wrong.code != 0
    assert "Hash mismatch for `tiny==1.0`" in wrong.stderr
    requirements.write_text("tiny==1.0\n")
    bare = uv_client.install(requirements, python, links=links, cache=cache, show=False)
    assert bare.code != 0
    assert "In `--require-hashes` mode, all requirements must have a hash" in bare.stderr

    requirements.write_text(f"tiny==1.0 --hash=sha256:{sha256(file)}\n")
    right = uv_client.install(requirements, python, links=links, cache=cache, show=False)
    assert right.code == 0
    code = "import os, tiny; print(tiny.VERSION, os.path.exists(tiny.__cached__))"
    # -B: our own import must not write bytecode, which is not uv's business here
    shown = subprocess.run([python, "-B", "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "1.0 False\n"


def test_an_installation_asks_no_server_whatever_uv_is_set_to(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = wheel(tmp_path / "elsewhere")
    index = serve(answers(file))
    (tmp_path / "links").mkdir()
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX"):
        monkeypatch.setenv(name, f"http://{index.address}/simple")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "elsewhere"))
    (tmp_path / "uv.toml").write_text(f'find-links = ["{tmp_path}/elsewhere"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    assert uv_client.make_environment(tmp_path / "environment", "3.11", cache=tmp_path / "cache").code == 0
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"tiny==1.0 --hash=sha256:{sha256(file)}\n")
    done = uv_client.install(
        requirements, tmp_path / "environment/bin/python", links=tmp_path / "links", cache=tmp_path / "own", show=False
    )
    assert (done.code, index.asked) == (1, [])
    assert "tiny was not found in the provided package locations" in done.stderr


def test_an_environment_may_be_moved(tmp_path: Path) -> None:
    assert uv_client.make_environment(tmp_path / "part", "3.11", cache=tmp_path / "cache").code == 0
    (tmp_path / "part").rename(tmp_path / "final")
    code = "import sys; print(sys.prefix)"
    done = subprocess.run([tmp_path / "final/bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'final'}\n"
    assert str(tmp_path / "part") not in (tmp_path / "final/bin/activate").read_text()


def test_a_python_that_is_not_there_is_not_fetched(tmp_path: Path) -> None:
    done = uv_client.make_environment(tmp_path / "part", "3.99", cache=tmp_path / "cache")
    assert done.code != 0
    assert "No interpreter found for Python 3.99" in done.stderr


def test_uv_is_the_one_that_is_locked() -> None:
    version = subprocess.run([uv_client.binary(), "--version"], capture_output=True, text=True, check=True).stdout
    lock = (Path(__file__).resolve().parent.parent / "envs/locks/toolkit.txt").read_text(encoding="utf-8")
    assert f"\nuv=={version.split()[1]} \\\n" in lock
