"""jingxiang.environments, with the engine `venv`: real environments, made from wheels in a store without a network."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jingxiang import environments, inventory, locks
from jingxiang.digest import sha256_file
from jingxiang.engines.venv import PythonMissing, Venv
from jingxiang.environments import Environment
from jingxiang.places import Places
from jingxiang.process import ProcessFailed
from jingxiang.store import Store
from jingxiang.wheels import Wheels
from tests.peers.mirror import Mirror, serving
from tests.peers.wheels import wheel

VENV = Venv(environments.PYTHON)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """All that uv and pip could ask on this machine; it would hear of any connection."""
    with serving() as mirror:
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX"):
            monkeypatch.setenv(name, f"{mirror.url}/simple")
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, mirror.url)
            monkeypatch.setenv(name.lower(), mirror.url)
        yield mirror


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "checkout").mkdir()
    return Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")


def made_of(places: Places, *versions: str) -> tuple[Environment, Wheels]:
    """An environment of wheels such as `one==1.0`, which are in the store."""
    store, digests, lines = Store(places.store), {}, []
    for each in versions:
        name, _, version = each.partition("==")
        sha256 = wheel(places.root / "files", name, version)
        path = places.root / "files" / f"{name}-{version}-py3-none-any.whl"
        digests[path.name] = store.add(path)
        lines.append(f"{each} --hash=sha256:{'0' * 64} --hash=sha256:{sha256}\n")
    lock = places.root / "cpu.txt"
    lock.write_text("".join(lines))
    return environments.plan(places, "cpu", locks.read(lock)), Wheels(store, digests)


def shown(environment: Environment, code: str) -> str:
    return subprocess.run([environment.python, "-c", code], capture_output=True, text=True, check=True).stdout


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_an_environment_is_what_the_lock_says_and_no_server_hears_of_it(places: Places, network: Mirror) -> None:
    made, wheels = made_of(places, "one==1.0", "two==1.0", "torchlike==2.0+cpu")
    before = made.in_place
    environments.build(made, VENV, wheels, show=False)
    assert (before, made.in_place) == (False, True)
    assert made.name == f"i2v-cpu-{made.lock.digest[:8]}"
    code = "import one, torchlike, sys; print(one.version, torchlike.version, sys.version_info[:2], sys.prefix)"
    assert shown(made, code) == f"1.0 2.0+cpu (3, 11) {made.folder}\n"
    assert list(made.folder.rglob("one*.pyc"))  # the bytecode is there before the first start
    stamp = json.loads((made.folder / "jingxiang.json").read_text())
    version = shown(made, "import platform; print(platform.python_version(), end='')")
    assert {"pyvenv.cfg", "bin/python", "bin/activate"} <= set(stamp.pop("files"))
    assert stamp.pop("tag").startswith("cpython-311-")
    assert stamp == {"profile": "cpu", "engine": "venv", "lock": made.lock.digest, "python": version}
    assert names(made.folder.parent) == [made.name]
    assert network.connections == 0


def test_an_environment_says_nothing_of_where_and_when_it_was_made(places: Places, tmp_path: Path) -> None:
    """But for the link to this machine's Python: its packages are the same bytes anywhere."""
    looks = []
    for store in ("first", "second"):
        made, wheels = made_of(Places(places.root, tmp_path / store, tmp_path / store), "one==1.0")
        environments.build(made, VENV, wheels, show=False)
        site = inventory.looks(made.folder / made.site)
        looks.append({path: look for path, look in site.items() if not path.startswith("_virtualenv")})
    assert looks[0] == looks[1]
    assert not [path for path in looks[0] if path.endswith("uv_cache.json")]


def test_the_store_stays_as_it_is(places: Places) -> None:
    """A program that edits its own files does not reach the wheels."""
    made, wheels = made_of(places, "one==1.0")
    environments.build(made, VENV, wheels, show=False)
    blob = wheels.store.blob(*wheels.digests.values())
    assert (sha256_file(blob), blob.stat().st_nlink) == (blob.name, 1)


def inodes(environment: Environment, name: str) -> dict[str, int]:
    """The files of a package and of its bytecode."""
    found = (environment.folder / environment.site).rglob(f"{name}*.py*")
    return {path.name: path.stat().st_ino for path in found}


def test_environments_share_unpacked_files_and_bytecode(places: Places) -> None:
    first, wheels = made_of(places, "one==1.0", "two==1.0")
    environments.build(first, VENV, wheels, show=False)
    second, wheels = made_of(places, "one==1.0", "three==1.0")
    environments.build(second, VENV, wheels, show=False)
    assert inodes(first, "one") == inodes(second, "one")
    assert set(inodes(first, "one")) == {"one.py", "one.cpython-311.pyc"}


def test_on_another_disk_than_the_store_files_are_copied_without_a_warning(
    places: Places, mounted: Callable[[str, int], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    made, wheels = made_of(places, "one==1.0")
    other = environments.plan(Places(places.root, mounted("tmpfs", 50), places.store), "cpu", made.lock)
    environments.build(other, VENV, wheels, show=True)
    assert shown(other, "import one, os; print(one.version, os.path.exists(one.__cached__))") == "1.0 True\n"
    assert "warning" not in capfd.readouterr().err


def test_a_store_that_may_only_be_read_serves_as_well(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    made, wheels = made_of(places, "one==1.0")
    monkeypatch.setattr(Store, "is_ours", False)
    environments.build(made, VENV, wheels, show=False)
    assert shown(made, "import one, os; print(one.version, os.path.exists(one.__cached__))") == "1.0 True\n"
    assert names(made.folder.parent) == [made.name]
    assert not wheels.store.derived.exists()


def test_what_was_prepared_while_others_came_is_not_done_again(places: Places, network: Mirror) -> None:
    made, wheels = made_of(places, "one==1.0", "torchlike==2.0+cpu", "two==1.0")
    early = Wheels(wheels.store, {name: sha for name, sha in wheels.digests.items() if not name.startswith("two")})
    with environments.preparing(made, wheels.store) as prepare:
        prepare(Wheels(wheels.store, dict(list(early.digests.items())[:1])))
        prepare(early)
    derived = wheels.store.derived
    assert {path.name for path in derived.iterdir()} == {"unpacked", "bytecode", "seen.json"}
    before = {path: path.stat().st_ino for path in derived.rglob("*") if path.suffix in (".py", ".pyc")}
    assert {path.name for path in before} >= {"one.py", "one.cpython-311.pyc", "torchlike.cpython-311.pyc"}
    environments.build(made, VENV, wheels, show=False)
    assert {path: path.stat().st_ino for path in before} == before
    assert inodes(made, "one").items() <= {path.name: inode for path, inode in before.items()}.items()
    assert network.connections == 0


def test_a_second_time_nothing_is_made_and_no_wheel_is_needed(places: Places) -> None:
    made, wheels = made_of(places, "one==1.0")
    environments.build(made, VENV, wheels, show=False)
    before = made.folder.stat().st_ino
    environments.build(made, VENV, Wheels(Store(places.home / "empty"), {}), show=False)
    assert made.folder.stat().st_ino == before


def test_a_file_that_is_damaged_in_the_store_is_never_installed(places: Places, network: Mirror) -> None:
    made, wheels = made_of(places, "one==1.0", "two==1.0")
    blob = wheels.store.blob(wheels.digests["one-1.0-py3-none-any.whl"])
    data = bytearray(blob.read_bytes())
    data[10] ^= 0x01  # the time in a header: still a whole wheel
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(ProcessFailed, match=r"Hash mismatch for `one==1\.0`"):
        environments.build(made, VENV, wheels, show=False)
    assert names(places.environments) == []
    assert network.connections == 0


def test_a_wheel_that_is_not_there_is_not_looked_for_elsewhere(places: Places, network: Mirror) -> None:
    made, wheels = made_of(places, "one==1.0", "two==1.0")
    only = {name: sha256 for name, sha256 in wheels.digests.items() if name.startswith("one")}
    with pytest.raises(ProcessFailed, match="two was not found in the provided package locations"):
        environments.build(made, VENV, Wheels(wheels.store, only), show=False)
    assert names(places.environments) == []
    assert network.connections == 0


def test_two_processes_at_once_install_once(places: Places) -> None:
    made, wheels = made_of(places, "one==1.0")
    seen: list[int] = []

    def build() -> None:
        environments.build(made, VENV, wheels, show=False)
        seen.append((made.folder / "jingxiang.json").stat().st_ino)

    both = [threading.Thread(target=build) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert seen == [(made.folder / "jingxiang.json").stat().st_ino] * 2


def test_what_a_killed_run_left_is_removed(places: Places) -> None:
    made, wheels = made_of(places, "one==1.0")
    for name in (f"{made.name}.part-abc", f"{made.name}.part-abc-uv"):
        (places.environments / name / "deep").mkdir(parents=True)
    environments.build(made, VENV, wheels, show=False)
    assert names(places.environments) == [made.name]


def test_an_environment_whose_python_has_gone_is_made_again(places: Places) -> None:
    made, wheels = made_of(places, "one==1.0")
    environments.build(made, VENV, wheels, show=False)
    made.python.unlink()
    made.python.symlink_to("/gone/python3.11")
    before = made.in_place
    environments.build(made, VENV, wheels, show=False)
    assert (before, made.in_place) == (False, True)
    assert shown(made, "import one; print(one.version)") == "1.0\n"


def test_a_machine_without_that_python_is_told_what_to_do() -> None:
    with pytest.raises(PythonMissing) as caught:
        Venv("3.99").check()
    assert caught.value.exit_code == 2
    assert "locked for Python 3.99, which this machine does not have" in caught.value.message
    assert caught.value.hints == ("python3 tasks.py setup --engine mamba", "apt-get install python3.99")


def test_the_link_leads_to_the_newest(places: Places) -> None:
    first, _ = made_of(places, "one==1.0")
    second, _ = made_of(places, "one==1.0", "two==1.0")
    link = places.root / ".env"
    environments.point(link, first)
    before = link.lstat().st_ino
    environments.point(link, first)
    assert link.lstat().st_ino == before  # untouched when it is right
    environments.point(link, second)
    assert str(link.readlink()) == f"../home/environments/{second.name}"
