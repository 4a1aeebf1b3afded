"""The toolkit's own lock, through mirrors of the real index: one that fails at every file, and one that does not"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from jingxiang import locks, pip_client, wheels
from jingxiang.fetch import resolve
from jingxiang.fetch.schedule import Patience
from jingxiang.fetch.session import Session
from jingxiang.mirrors import Source
from jingxiang.simple_index import File
from jingxiang.store import Store
from tests.peers import checkout, proxied, system
from tests.peers.checkout import Checkout
from tests.peers.faults import FAULTS, Fault
from tests.peers.mirror import Mirror, serving
from tests.peers.proxied import Upstream

pytestmark = pytest.mark.e2e
TOOLKIT = checkout.ROOT / ".venv" / "bin" / "python"
LOCK = locks.read(checkout.ROOT / "envs" / "locks" / "toolkit.txt")
TARGET = resolve.target("3.11")
PACKAGES = [package for package in LOCK.packages if TARGET.wants(package)]
WAYS = (
    "truncated at the middle",
    "corrupt at the end",
    "reset at the start",
    "page",
    "503",
    "404",
    "hidden_page",
    "stall at the middle",
)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    found = Upstream(TOOLKIT)
    yield found
    found.close()


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch, upstream: Upstream) -> Iterator[tuple[Mirror, Mirror]]:
    """A bad and a good one. The real index is asked as the machine is set up; the mirrors are on loopback."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as bad, serving() as good:
        proxied.serve(good, upstream)
        yield bad, good


def fetched(store: Store, bad: Mirror, good: Mirror) -> wheels.Wheels:
    sources = [
        Source(name, name, "pypi", "pep503", f"{each.url}/simple") for name, each in (("bad", bad), ("good", good))
    ]
    with Session(store, {"pypi": sources}, patience=Patience(stall_s=1.0)) as session:
        found, _ = wheels.fetched(session, store, PACKAGES, TARGET)
    return found


def test_whatever_a_mirror_does_what_is_installed_is_what_is_locked(
    mirrors: tuple[Mirror, Mirror], upstream: Upstream, tmp_path: Path
) -> None:
    bad, good = mirrors
    ways = cycle(WAYS)
    failed: list[str] = []

    def fault(path: str) -> Fault | None:
        if not path.startswith("/packages/"):
            return None
        failed.append(path)
        return FAULTS[next(ways)]

    proxied.serve(bad, upstream, fault=fault)
    found = fetched(Store(tmp_path / "store"), bad, good)
    assert found.complete
    assert {each for package in PACKAGES for each in package.hashes} >= set(found.digests.values())
    assert len(found.digests) == len(PACKAGES)
    assert failed
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "environment"], check=True)
    python = tmp_path / "environment" / "bin" / "python"
    links = tmp_path / "wheels"
    with found.folder(links):
        pip_client.install(python, LOCK.path, links)
    code = "import invoke, docker, psutil, uv; print(invoke.__version__)"
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == next(package.version for package in PACKAGES if package.name == "invoke")


def test_an_index_that_is_old_or_lies_is_passed_over(
    mirrors: tuple[Mirror, Mirror], upstream: Upstream, tmp_path: Path
) -> None:
    bad, good = mirrors

    def wrong(project: str, listed: list[File]) -> list[File]:
        if sum(map(ord, project)) % 2:  # it has not heard of the version yet
            version = next(package.version for package in PACKAGES if package.name == project)
            return [file for file in listed if version not in file.name]
        return [File(file.url, "0" * 64) for file in listed]

    proxied.serve(bad, upstream, listed=wrong)
    found = fetched(Store(tmp_path / "store"), bad, good)
    assert found.complete
    assert not [path for path in bad.paths() if path.startswith("/packages/")]


@pytest.fixture
def small(tmp_path: Path) -> Checkout:
    """A checkout whose app needs no more than the toolkit does: an installation takes seconds."""
    copied = checkout.copy(tmp_path / "checkout", {"JINGXIANG_STORE": str(tmp_path / "store")})
    (copied.folder / "mirrors.toml").write_text("[official]\n")
    for folder, ending in (("envs", "in"), ("envs/locks", "txt")):
        shutil.copy(copied.folder / folder / f"toolkit.{ending}", copied.folder / folder / f"cpu.{ending}")
    return copied


def test_what_is_in_the_store_is_installed_without_a_network(small: Checkout) -> None:
    system.require(shutil.which("unshare"), "no unshare: apt-get install util-linux")
    offline = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    system.require(not subprocess.run([*offline, "true"], capture_output=True).returncode, "may not unshare")
    python = getattr(sys, "_base_executable", sys.executable)
    first = small.run(python, "tasks.py", "setup")
    assert first.code == 0, first.stderr
    for made in (".venv", ".jingxiang", ".env"):
        (shutil.rmtree if (small.folder / made).is_dir() and made != ".env" else os.unlink)(small.folder / made)
    again = small.run(*offline, python, "tasks.py", "setup", "--mirror", "official")
    assert again.code == 0, again.stderr
    count = len(PACKAGES)
    assert again.stderr.count(f"fetch    all {count} files are in the store\n") == 2  # the toolkit's and the app's
    assert again.stdout == first.stdout
    environment = Path(again.stdout.strip())
    subprocess.run([environment / "bin" / "python", "-c", "import invoke, psutil"], check=True)


def test_a_bundle_is_all_that_a_bare_machine_needs(small: Checkout, tmp_path: Path) -> None:
    """Toolkit and app from a folder, with an empty store and without a network."""
    system.require(shutil.which("unshare"), "no unshare: apt-get install util-linux")
    offline = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    folder = tmp_path / "a bundle"
    python = system.pythons()["3.11"]
    written = small.run(python, "tasks.py", "bundle", "--profile", "cpu", "--out", folder)
    assert written.code == 0, written.stderr
    assert written.stdout == f"{folder}\n"
    bare = checkout.copy(tmp_path / "bare", {"JINGXIANG_STORE": str(tmp_path / "empty")})
    for name in ("envs/cpu.in", "envs/locks/cpu.txt"):
        shutil.copy(small.folder / name, bare.folder / name)
    done = bare.run(*offline, python, "tasks.py", "setup", "--profile", "cpu", "--mirror", folder.as_uri())
    assert done.code == 0, done.stderr
    found = Path(done.stdout.strip())
    assert subprocess.run([found / "bin" / "python", "-c", "import invoke, docker"], check=True).returncode == 0
    checked = bare.run(*offline, python, "tasks.py", "verify")
    assert (checked.code, checked.stdout) == (0, "")
