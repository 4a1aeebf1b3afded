"""`lock`, its conda part: real solver, real conda-lock, real channels on this machine"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jingxiang import conda_locks, locks, mirrors
from jingxiang.commands import conda_lock, engines
from jingxiang.commands import lock as command
from jingxiang.commands.lock import LocksStale, lock
from jingxiang.errors import UnknownName
from jingxiang.places import Places, here
from jingxiang.process import ProcessFailed
from tests.peers import channel
from tests.peers.mirror import Mirror, serving

SPEC = """name: i2v
channels:
  - conda-forge
  - nodefaults
dependencies:
  - app>=1  # why
  - pip:
      - -r cpu.in
"""


@pytest.fixture(scope="module")
def tools() -> Path:
    """The Python with conda-lock and py-rattler of this checkout; made if it is not there."""
    places = here()
    return engines.tools(places, mirrors.load(places.root), mirror="auto")


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A channel: app needs library of 1.x, of which there are two, and the machine's C library."""
    root = tmp_path / "conda-forge"
    channel.write(root, "app", "1.0", {}, depends=["library >=1,<2", "__glibc >=2.17"])
    channel.write(root, "library", "1.0", {"lib/one": channel.File(b"1")})
    channel.write(root, "library", "2.0", {"lib/one": channel.File(b"2")})
    channel.write(root, "data", "1.0", {"share/data": channel.File(b"d")}, subdir="noarch")
    channel.index(root)
    return root


def serve(mirror: Mirror, root: Path, prefix: str) -> None:
    """The lists alone: a solver needs no package."""
    for path in root.rglob("repodata.json*"):
        mirror.files[f"{prefix}/{path.parent.name}/{path.name}"] = path.read_bytes()


@pytest.fixture
def near(no_proxy: None, packages: Path) -> Iterator[Mirror]:
    with serving() as found:
        serve(found, packages, "/conda-forge")
        yield found


@pytest.fixture
def far(no_proxy: None, packages: Path) -> Iterator[Mirror]:
    with serving() as found:
        serve(found, packages, "/anaconda/cloud/conda-forge")
        yield found


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: Path, near: Mirror, far: Mirror) -> Places:
    for name in os.environ:
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(command, "SPECS", ())
    monkeypatch.setattr(engines, "tools", lambda places, known, mirror: tools)
    found = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    found.locks.mkdir(parents=True)
    (found.root / "envs" / "i2v.yml").write_text(SPEC)
    (found.root / "mirrors.toml").write_text(
        f'[near]\nconda = {{ layout = "conda", url = "{near.url}/{{channel}}" }}\n'
        f'[far]\nconda = {{ layout = "conda", url = "{far.url}/anaconda/cloud/{{channel}}" }}\n'
    )
    return found


def versions(places: Places) -> dict[str, str]:
    return {each.name: each.version for each in conda_locks.read(places.locks / "conda-lock.yml").packages}


def test_a_lock_is_the_same_through_any_mirror_and_names_none(
    places: Places, near: Mirror, far: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    for mirror in ("near", "far"):
        (places.locks / "conda-lock.yml").unlink(missing_ok=True)
        lock(places, mirror=mirror, check=False, upgrade=[])
        written.append((places.locks / "conda-lock.yml").read_bytes())
    assert capsys.readouterr().err == "lock     conda-lock.yml  2 packages  written\n" * 2
    assert written[0] == written[1]
    assert [part for part in (near.url, far.url, "127.0.0.1", "anaconda/cloud") if part.encode() in written[0]] == []
    assert any(path.startswith("/conda-forge/") for path in near.paths())
    assert any(path.startswith("/anaconda/cloud/conda-forge/") for path in far.paths())
    assert versions(places) == {"app": "1.0", "library": "1.0"}
    lock(places, mirror="auto", check=True, upgrade=[])


def test_conda_lock_itself_reads_it(places: Places, tools: Path, packages: Path) -> None:
    lock(places, mirror="near", check=False, upgrade=[])
    program, locked = str(tools.with_name("conda-lock")), str(places.locks / "conda-lock.yml")
    words = [program, "render", "--kind", "explicit", "-p", "linux-64", "--filename-template", "out", locked]
    done = subprocess.run(words, cwd=places.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rendered = (places.root / "out").read_text()
    assert all(each.url in rendered for each in conda_locks.read(Path(locked)).packages)


def test_what_is_locked_stays_until_its_upgrade_is_asked_for(places: Places, near: Mirror, packages: Path) -> None:
    lock(places, mirror="near", check=False, upgrade=[])
    first = (places.locks / "conda-lock.yml").read_bytes()
    channel.write(packages, "library", "1.1", {"lib/one": channel.File(b"3")})
    channel.write(packages, "app", "1.5", {}, depends=["library >=1,<2"])
    channel.index(packages)
    serve(near, packages, "/conda-forge")
    shutil.rmtree(places.home)  # where the lists are kept
    lock(places, mirror="near", check=False, upgrade=[])
    assert (places.locks / "conda-lock.yml").read_bytes() == first
    lock(places, mirror="near", check=False, upgrade=["library"])
    assert versions(places) == {"app": "1.0", "library": "1.1"}
    lock(places, mirror="near", check=False, upgrade=["app"])
    assert versions(places) == {"app": "1.5", "library": "1.1"}
    with pytest.raises(UnknownName, match="did you mean 'library'"):
        lock(places, mirror="near", check=False, upgrade=["libary"])


def test_a_changed_spec_is_solved_again_and_what_still_fits_stays(places: Places, packages: Path) -> None:
    lock(places, mirror="near", check=False, upgrade=[])
    (places.root / "envs" / "i2v.yml").write_text(SPEC.replace("dependencies:\n", "dependencies:\n  - data\n"))
    with pytest.raises(LocksStale, match=r"^envs/locks/conda-lock\.yml: is older than envs/i2v\.yml"):
        lock(places, mirror="auto", check=True, upgrade=[])
    lock(places, mirror="near", check=False, upgrade=[])
    assert versions(places) == {"app": "1.0", "data": "1.0", "library": "1.0"}


def test_a_mirror_whose_lists_cannot_be_had_costs_a_line(
    places: Places, near: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    near.answers[""] = near.status(503)
    lock(places, mirror="near", check=False, upgrade=[])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("lock     near: ")
    assert "503" in first
    assert second == "lock     conda-lock.yml  2 packages  written"


def test_where_nothing_fits_the_lock_stays_and_the_solver_says_why(places: Places) -> None:
    lock(places, mirror="near", check=False, upgrade=[])
    before = (places.locks / "conda-lock.yml").read_bytes()
    (places.root / "envs" / "i2v.yml").write_text(SPEC.replace("app>=1", "app>=9"))
    with pytest.raises(ProcessFailed, match=r"lock envs/i2v\.yml ended with exit code 1\n.*app >=9"):
        lock(places, mirror="near", check=False, upgrade=[])
    assert (places.locks / "conda-lock.yml").read_bytes() == before


def test_without_any_mirror_a_fresh_lock_stays_and_a_stale_one_is_an_error(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(places, mirror="near", check=False, upgrade=[])
    (places.root / "mirrors.toml").write_text("")
    shutil.rmtree(places.home)
    capsys.readouterr()
    lock(places, mirror="auto", check=False, upgrade=[])
    assert capsys.readouterr().err == "lock     conda-lock.yml  unchanged: no mirror of conda answers now\n"
    (places.root / "envs" / "i2v.yml").write_text(SPEC.replace("app>=1", "app"))
    with pytest.raises(conda_lock.NoChannel) as caught:
        lock(places, mirror="auto", check=False, upgrade=[])
    assert caught.value.hints == ("python3 tasks.py mirrors --probe --space conda",)


def test_the_machine_and_its_settings_change_nothing(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another home, another C library, settings of conda: what a lock is for is said by conda-lock alone."""
    lock(places, mirror="near", check=False, upgrade=[])
    first = (places.locks / "conda-lock.yml").read_bytes()
    (places.locks / "conda-lock.yml").unlink()
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / ".condarc").write_text("channels: [nowhere]\nchannel_alias: http://127.0.0.1:9\n")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("CONDA_OVERRIDE_GLIBC", "2.5")
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    lock(places, mirror="near", check=False, upgrade=[])
    assert (places.locks / "conda-lock.yml").read_bytes() == first
    assert [path.name for path in (tmp_path / "user").iterdir()] == [".condarc"]
    assert locks.marks(places.locks, first.decode()).edited is False
