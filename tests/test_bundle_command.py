"""jingxiang.commands.bundle: a folder that is a mirror, as a folder and served by Python's own server"""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jingxiang import bootstrap, locks
from jingxiang.commands.bundle import NotABundle, bundle
from jingxiang.commands.setup import setup
from jingxiang.digest import sha256_file
from jingxiang.errors import UsageError
from jingxiang.fetch.report import Unavailable
from jingxiang.places import Places
from tests.peers import nvml
from tests.peers.mirror import Mirror, Wheel, serving, wheel

ONE, BUILT, TOOL = wheel("one-more", "1.0"), wheel("torchlike", "2.0+cpu"), wheel("tool", "3.0")


@pytest.fixture
def mirror(no_proxy: None) -> Iterator[Mirror]:
    with serving() as found:
        for each in (ONE, BUILT, TOOL):
            found.add_index(each)
        yield found


def checkout(folder: Path) -> Places:
    """A checkout of two locks; no mirror is known to it."""
    found = Places(folder / "checkout", folder / "home", folder / "store")
    found.locks.mkdir(parents=True)
    (found.root / "mirrors.toml").write_text("")
    for name, files in {"cpu": (ONE, BUILT), "toolkit": (TOOL,)}.items():
        spec = found.root / "envs" / f"{name}.in"
        spec.write_text("".join(f"{each.name}\n" for each in files))
        body = "".join(f"{each.name}=={each.version} --hash=sha256:{each.sha256}\n" for each in files)
        (found.locks / f"{name}.txt").write_text(locks.written(spec, body))
    return found


@pytest.fixture
def places(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Places:
    for name in os.environ:
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    nvml.absent(monkeypatch)
    found = checkout(tmp_path)
    tables = "".join(f'{space} = {{ layout = "pep503", url = "{mirror.url}/simple" }}\n' for space in ("pypi", "torch"))
    (found.root / "mirrors.toml").write_text(f"[near]\n{tables}")
    return found


@pytest.fixture
def made(places: Places, tmp_path: Path) -> Path:
    """In a folder whose name needs quoting."""
    folder = tmp_path / "on a stick"
    bundle(places, out=str(folder), mirror="near", profile="cpu")
    return folder


def file(each: Wheel, root: str) -> str:
    return f"{root}/{each.name}/{each.file}"


FILES = {file(ONE, "pypi/simple"): ONE, file(TOOL, "pypi/simple"): TOOL, file(BUILT, "torch/cpu"): BUILT}


def test_it_holds_an_index_with_its_files_and_says_what_is_in_it(made: Path) -> None:
    found = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    pages = {f"{path.rpartition('/')[0]}/index.html" for path in FILES}
    assert found == {*FILES, *pages, "bundle.json"}
    assert (made / "torch/cpu/torchlike/index.html").read_text() == (
        "<!DOCTYPE html>\n<html><body>\n"
        f'<a href="torchlike-2.0%2Bcpu-py3-none-any.whl#sha256={BUILT.sha256}">torchlike-2.0+cpu-py3-none-any.whl</a>'
        "<br>\n</body></html>\n"
    )
    manifest = json.loads((made / "bundle.json").read_text())
    assert manifest["profiles"] == ["cpu", "toolkit"]
    assert manifest["files"] == {
        path: {"sha256": sha256_file(made / path), "size_bytes": (made / path).stat().st_size}
        for path in sorted({*FILES, *pages})
    }


def test_the_folder_is_data_and_how_to_use_it_is_said(
    made: Path, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(places, out=str(made), mirror="near", profile="cpu")
    out, err = capsys.readouterr()
    assert out == f"{made}\n"
    lines = err.splitlines()[-3:]
    assert lines[0].startswith("bundle   3 files, ")
    assert lines[1] == f"         python3 tasks.py setup --profile cpu --mirror {made.as_uri()}"
    assert lines[2] == f"         for others: python3 -m http.server -d '{made}', and --mirror http://HOST:8000"


def test_another_machine_needs_nothing_else(made: Path, tmp_path: Path, mirror: Mirror) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(made, moved)
    shutil.rmtree(made)
    before = mirror.connections
    environment = setup(checkout(tmp_path / "other"), mirror=moved.as_uri(), profile="cpu")
    assert environment.in_place
    assert mirror.connections == before


def test_pythons_own_server_makes_it_a_mirror_for_others(made: Path, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(made)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    try:
        assert setup(checkout(tmp_path / "other"), mirror=url, profile="cpu").in_place
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_that_was_damaged_in_it_is_not_installed(made: Path, tmp_path: Path) -> None:
    path = made / file(ONE, "pypi/simple")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + b"x")
    other = checkout(tmp_path / "other")
    with pytest.raises(Unavailable, match="could not be had from any of 1 mirrors"):
        setup(other, mirror=made.as_uri(), profile="cpu")
    assert not other.environments.exists()


def test_it_may_be_written_again_over_itself_and_over_nothing_else(places: Places, made: Path, tmp_path: Path) -> None:
    (made / "old").write_text("x")
    bundle(places, out=str(made), mirror="near", profile="cpu")
    assert not (made / "old").exists()
    own = tmp_path / "photos"
    own.mkdir()
    (own / "cat.jpg").write_text("x")
    with pytest.raises(NotABundle) as caught:
        bundle(places, out=str(own), mirror="near", profile="cpu")
    assert (caught.value.exit_code, [path.name for path in own.iterdir()]) == (2, ["cat.jpg"])


def test_it_takes_no_room_on_the_disk_of_the_store(places: Places, made: Path) -> None:
    assert (made / file(ONE, "pypi/simple")).stat().st_nlink == 2


def test_it_serves_every_python_that_can_run_the_toolkit(places: Places, mirror: Mirror, tmp_path: Path) -> None:
    old = wheel("old", "1.0")
    mirror.add_index(old)
    spec = places.root / "envs" / "toolkit.in"
    body = f'old==1.0 ; python_version < "3.11" --hash=sha256:{old.sha256}\n'
    (places.locks / "toolkit.txt").write_text(locks.written(spec, body))
    assert bootstrap.OLDEST < (3, 11)
    bundle(places, out=str(tmp_path / "made"), mirror="near", profile="cpu")
    assert (tmp_path / "made" / file(old, "pypi/simple")).is_file()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/bundle", "ftp://host/bundle: should begin with https://, http:// or file://"),
        ("http://li:secret@host/", "http://…@host/: an address with a password belongs into mirrors.local.toml"),
    ],
)
def test_other_addresses_are_refused(places: Places, address: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        setup(places, mirror=address, profile="cpu")
    assert caught.value.message == message
