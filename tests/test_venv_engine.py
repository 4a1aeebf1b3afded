"""jingxiang.engines.venv: real environments made by uv from indexes on loopback, good and bad ones."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jingxiang import locks, mirrors
from jingxiang.digest import sha256_file
from jingxiang.engines import venv
from jingxiang.engines.venv import Environment
from jingxiang.places import Places
from tests.peers import index, wheels

TOOLKIT = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.asked.append(self.path)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server over a folder: its address, and the paths that were asked."""
    asked: list[str] = []
    handler = type("Handler", (Quiet,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: handler(*args, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What a good mirror serves: two ordinary packages, and one of PyTorch's kind."""
    for name in ("one", "two"):
        wheels.wheel(tmp_path / "files", name)
    wheels.wheel(tmp_path / "builds", "torchlike", "2.0+cpu")
    wheels.pages(tmp_path / "site", tmp_path / "files")
    wheels.pages(tmp_path / "site" / "cpu", tmp_path / "builds")
    return tmp_path / "site"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A home of its own, uv's cache too; pip's own index is a closed port, as behind a firewall."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    (tmp_path / "checkout").mkdir()
    return Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")


def environment(places: Places, tmp_path: Path, *, torch: bool = False) -> Environment:
    files = sorted([*(tmp_path / "files").glob("*.whl"), *((tmp_path / "builds").glob("*.whl") if torch else [])])
    lines = []
    for path in files:
        name, version, *_ = path.name.split("-")
        lines.append(f"{name}=={version} --hash=sha256:{sha256_file(path)}\n")
    lock = tmp_path / "cpu.txt"
    lock.write_text("".join(lines))
    return venv.plan(places, "cpu", locks.read(lock))


def known(places: Places, **sources: str) -> mirrors.MirrorSet:
    text = "[official]\n" + "".join(f"[{name}]\n{spaces}\n" for name, spaces in sources.items())
    (places.root / "mirrors.toml").write_text(text)
    return mirrors.load(places.root)


def pypi(url: str) -> str:
    return f'pypi = {{ layout = "pep503", url = "{url}/simple" }}'


def build(made: Environment, found: mirrors.MirrorSet, mirror: str) -> tuple[list[str], list[str]]:
    """What served it, and what was reported meanwhile."""
    said: list[str] = []
    return venv.build(made, found, mirror, toolkit_python=TOOLKIT, show=False, report=said.append), said


def test_an_environment_is_what_the_lock_says(places: Places, site: Path, tmp_path: Path) -> None:
    made = environment(places, tmp_path)
    assert not made.in_place
    with serving(site) as (url, _):
        assert build(made, known(places, good=pypi(url)), "good") == (["pypi from good"], [])
    assert environment(places, tmp_path).in_place
    assert made.name == f"i2v-cpu-{made.lock.digest[:8]}"
    code = "import one, two, sys; print(one.version, two.version, sys.version_info[:2], sys.prefix)"
    done = subprocess.run([str(made.python), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"1.0 1.0 (3, 11) {made.folder}\n"
    assert list(made.folder.rglob("one*.pyc"))  # the bytecode is there before the first start
    stamp = json.loads((made.folder / "jingxiang.json").read_text())
    assert (stamp["profile"], stamp["engine"], stamp["lock"]) == ("cpu", "venv", made.lock.digest)
    assert [path.name for path in made.folder.parent.iterdir()] == [made.name]
    # a second time nothing is asked
    assert build(made, known(places), "auto") == ([], [])


@pytest.mark.parametrize("status", [403, 200])
def test_a_bad_mirror_is_said_and_passed_over(places: Places, site: Path, tmp_path: Path, status: int) -> None:
    with serving(site) as (url, _), index.bad(status) as bad:
        found = known(places, bad=pypi(bad.removesuffix("/simple/")), good=pypi(url))
        served, said = build(environment(places, tmp_path), found, "bad")
    assert served == ["pypi from good"]
    assert len(said) == 1
    assert said[0].startswith("bad       ")
    assert len(said[0]) > 15


def test_auto_takes_the_one_that_has_the_locked_version(places: Places, site: Path, tmp_path: Path) -> None:
    wheels.wheel(tmp_path / "old", "one", "0.9")
    wheels.wheel(tmp_path / "old", "two", "0.9")
    wheels.pages(tmp_path / "stale", tmp_path / "old")
    with serving(tmp_path / "stale") as (stale, _), serving(site) as (url, _):
        found = known(places, stale=pypi(stale), good=pypi(url))
        assert build(environment(places, tmp_path), found, "auto") == (["pypi from good"], [])


def test_a_spoilt_file_is_never_installed(places: Places, site: Path, tmp_path: Path) -> None:
    made = environment(places, tmp_path)
    for path in site.rglob("one-*.whl"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))
    with serving(site) as (url, _), pytest.raises(venv.NoMirror) as caught:
        build(made, known(places, spoilt=pypi(url)), "spoilt")
    lines = caught.value.message.splitlines()
    assert lines[0] == "the pypi packages could not be had from any of 2 mirrors"
    assert lines[1].startswith("       spoilt    ")
    assert lines[2].startswith("       official  ")
    assert lines[3] == "       nothing was installed; what was fetched is kept"
    assert list(made.folder.parent.iterdir()) == []


@pytest.mark.parametrize("layout", ["pep503", "flat"])
def test_pytorch_s_builds_come_from_their_own_space(places: Places, site: Path, tmp_path: Path, layout: str) -> None:
    made = environment(places, tmp_path, torch=True)
    path = "{build}/simple" if layout == "pep503" else "{build}/flat/"
    with serving(site) as (url, asked):
        torch = f'torch = {{ layout = "{layout}", url = "{url}/{path}" }}'
        found = known(places, good=pypi(url), builds=torch)
        assert build(made, found, "good")[0] == ["torch from builds", "pypi from good"]
    assert any(each.endswith("/torchlike-2.0%2Bcpu-py3-none-any.whl") for each in asked), asked
    code = "import torchlike; print(torchlike.version)"
    assert subprocess.run([str(made.python), "-c", code], capture_output=True, text=True).stdout == "2.0+cpu\n"


def test_pip_s_own_folder_of_links_serves_pytorch_first(
    places: Places, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "builds"))
    with serving(site) as (url, _):
        found = known(places, good=pypi(url), far='torch = { layout = "flat", url = "http://127.0.0.1:9/" }')
        made = environment(places, tmp_path, torch=True)
        # find-links alone: the index that pip is configured with is a closed port, so torch must not need it
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        assert build(made, found, "good") == (["torch from official", "pypi from good"], [])


def test_two_processes_at_once_install_once(places: Places, site: Path, tmp_path: Path) -> None:
    made = environment(places, tmp_path)
    results: list[list[str]] = []
    with serving(site) as (url, _):
        found = known(places, good=pypi(url))
        both = [threading.Thread(target=lambda: results.append(build(made, found, "good")[0])) for _ in range(2)]
        for each in both:
            each.start()
        for each in both:
            each.join()
    assert sorted(results) == [[], ["pypi from good"]]


def test_what_a_killed_run_left_is_removed(places: Places, site: Path, tmp_path: Path) -> None:
    made = environment(places, tmp_path)
    (places.environments / f"{made.name}.part-abc").mkdir(parents=True)
    with serving(site) as (url, _):
        build(made, known(places, good=pypi(url)), "good")
    assert [path.name for path in places.environments.iterdir()] == [made.name]


def test_an_environment_whose_python_has_gone_is_made_again(places: Places, site: Path, tmp_path: Path) -> None:
    made = environment(places, tmp_path)
    with serving(site) as (url, _):
        found = known(places, good=pypi(url))
        build(made, found, "good")
        made.python.unlink()
        made.python.symlink_to("/gone/python3.11")
        assert not made.in_place
        assert build(made, found, "good")[0] == ["pypi from good"]
    assert made.in_place


def test_a_machine_without_that_python_is_told_what_to_do(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venv, "PYTHON", "3.99")
    wheels.wheel(tmp_path / "files", "one")
    with pytest.raises(venv.PythonMissing) as caught:
        build(environment(places, tmp_path), known(places), "auto")
    assert caught.value.exit_code == 2
    assert "locked for Python 3.99, which this machine does not have" in caught.value.message
    assert caught.value.hints == ("apt-get install python3.99", ".venv/bin/uv python install 3.99")


def test_the_link_leads_to_the_newest(places: Places, tmp_path: Path) -> None:
    wheels.wheel(tmp_path / "files", "one")
    first = environment(places, tmp_path)
    wheels.wheel(tmp_path / "files", "two")
    second = environment(places, tmp_path)
    link = tmp_path / "checkout" / ".env"
    venv.point(link, first)
    before = link.lstat().st_ino
    venv.point(link, first)
    assert link.lstat().st_ino == before  # untouched when it is right
    venv.point(link, second)
    assert str(link.readlink()) == f"../home/environments/{second.name}"
