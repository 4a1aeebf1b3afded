"""jingxiang.engines.mamba and .rattler: real environments of a Python that comes as a conda package, offline"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jingxiang import environments, inventory, locks
from jingxiang.conda_locks import CondaLock
from jingxiang.conda_packages import CondaFiles
from jingxiang.digest import sha256_file
from jingxiang.environments import Engine, Environment
from jingxiang.inventory import Difference
from jingxiang.places import Places
from jingxiang.store import Damaged, Missing, Store
from jingxiang.wheels import Wheels
from tests.peers import channel, conda
from tests.peers.channel import PLACEHOLDER, File
from tests.peers.mirror import Mirror, serving
from tests.peers.wheels import wheel

BOTH = pytest.mark.parametrize("name", ["mamba", "rattler"])
SITE = "lib/python3.11/site-packages"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A Python, certificates, a package for any Python with a program, and one in the old format."""
    root = tmp_path_factory.mktemp("channel") / "conda-forge"
    script = f"#!{PLACEHOLDER}/bin/python3.11\nprint('script')\n".encode()
    return [
        channel.python(root),
        channel.write(
            root, "ca-certificates", "2026.1.1", subdir="noarch",
            files={"ssl/cacert.pem": File(b"certificate\n"), "ssl/cert.pem": File(link="cacert.pem")},
        ),
        channel.write(
            root, "tool", "1.0", subdir="noarch", entry_points=["tool = tool:main"], depends=["python"],
            files={"site-packages/tool/__init__.py": File(b"def main():\n    print('tool')\n"),
                   "python-scripts/script": File(script, mode="text", executable=True)},
        ),
        channel.write(
            root, "older", "1.0", old=True,
            files={"share/older.txt": File(b"older\n"), "lib/older": File(link="../share")},  # to a folder
        ),
    ]  # fmt: skip


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """All that an engine could be led to on this machine; it would hear of any connection."""
    with serving() as mirror:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, mirror.url)
            monkeypatch.setenv(name.lower(), mirror.url)
        yield mirror


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "checkout").mkdir()
    return Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")


def made_of(
    places: Places, name: str, packages: list[Path], folder: Path | None = None
) -> tuple[Environment, Engine, Wheels]:
    """An environment of these packages and one wheel, not built yet."""
    store = Store(places.store)
    files = conda.stored(store, packages)
    sha256 = wheel(places.root / "files", "one", "1.0")
    lock = places.root / "cpu.txt"
    lock.write_text(f"one==1.0 --hash=sha256:{sha256}\n")
    wheels = Wheels(store, {"one-1.0-py3-none-any.whl": store.add(places.root / "files" / "one-1.0-py3-none-any.whl")})
    locked = CondaLock(places.root / "conda-lock.yml", "c" * 64, "", False, files.packages)
    environment = environments.plan(places, "cpu", locks.read(lock), locked, folder=folder)
    return environment, conda.engine(name, files), wheels


def shown(environment: Environment, *words: str) -> str:
    program = environment.folder / "bin" / words[0]
    return subprocess.run([program, *words[1:]], capture_output=True, text=True, check=True).stdout


@BOTH
def test_an_environment_has_its_own_python_and_no_server_hears_of_it(
    places: Places, packages: list[Path], network: Mirror, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    environment, engine, wheels = made_of(places, name, packages)
    assert environments.build(environment, engine, wheels, show=False) > 500
    code = "import one, site, sys, sysconfig; print(one.version, sys.prefix, sysconfig.get_config_var('prefix'))"
    assert shown(environment, "python", "-c", code) == f"1.0 {environment.folder} {environment.folder}\n"
    assert shown(environment, "python", "-c", "import site; print(site.ENABLE_USER_SITE)") == "False\n"
    assert (shown(environment, "tool"), shown(environment, "script")) == ("tool\n", "script\n")
    stamp = environments.stamped(environment.folder)
    assert stamp
    assert (stamp.engine, stamp.lock, environment.in_place) == (name, environment.digest, True)
    assert environments.check(environment, wheels).differences == ()
    assert [path.name for path in places.environments.iterdir()] == [environment.name]
    assert (list((tmp_path / "user").iterdir()), network.connections) == ([], 0)


@BOTH
def test_the_path_of_the_environment_is_written_in_texts_and_programs(
    places: Places, packages: list[Path], name: str
) -> None:
    environment, engine, wheels = made_of(places, name, packages)
    environments.build(environment, engine, wheels, show=False)
    own = str(environment.folder)
    text = (environment.folder / "bin" / "pydoc3.11").read_text()
    assert text == f"#!{own}/bin/python3.11\nimport pydoc\npydoc.cli()\n"
    strings = f"{own}/share:{own}/lib".encode()
    whole = len(f"{PLACEHOLDER}/share:{PLACEHOLDER}/lib")
    assert (environment.folder / "lib" / "placed.bin").read_bytes() == (
        b"\0\1" + strings.ljust(whole, b"\0") + b"\0\0 end\0"
    )


@BOTH
@pytest.mark.parametrize("folder", ["my own/the environment", "long" * 25 + "/environment"])
def test_a_path_that_no_script_can_begin_with_works_as_well(
    places: Places, packages: list[Path], name: str, folder: str, tmp_path: Path
) -> None:
    environment, engine, wheels = made_of(places, name, packages, tmp_path / folder)
    environments.build(environment, engine, wheels, show=False)
    assert (shown(environment, "tool"), shown(environment, "script")) == ("tool\n", "script\n")
    assert environments.check(environment, wheels).differences == ()


@BOTH
def test_nothing_of_this_machine_is_in_what_was_installed(places: Places, packages: list[Path], name: str) -> None:
    environment, engine, wheels = made_of(places, name, packages)
    environments.build(environment, engine, wheels, show=False)
    meta = environment.folder / "conda-meta"
    assert sorted(path.name for path in meta.iterdir()) == [
        "ca-certificates-2026.1.1-0.json", "history", "older-1.0-0.json", f"{packages[0].stem}.json", "tool-1.0-0.json",
    ]  # fmt: skip
    texts = b"".join(path.read_bytes() for path in meta.iterdir())
    assert (str(places.store).encode() in texts, b".part-" in texts, (meta / "history").read_bytes()) == (
        False, False, b""
    )  # fmt: skip
    record = json.loads((meta / "tool-1.0-0.json").read_text())
    assert record["url"] == "https://conda.anaconda.org/conda-forge/noarch/tool-1.0-0.conda"
    assert record["sha256"] == sha256_file(packages[2])


@BOTH
def test_the_same_packages_give_the_same_bytes(places: Places, packages: list[Path], name: str, tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    looks = []
    for store in ("first", "second"):
        environment, engine, wheels = made_of(
            Places(places.root, places.home, tmp_path / store), name, packages, folder
        )
        environments.build(environment, engine, wheels, show=False)
        looks.append(inventory.looks(folder))
        shutil.rmtree(folder)
    assert looks[0] == looks[1]


def test_both_engines_install_the_same(places: Places, packages: list[Path], tmp_path: Path) -> None:
    """But for what they note about packages, in words of their own, and how they write a program for an entry point."""
    folder, looks = tmp_path / "environment", {}
    for name in ("mamba", "rattler"):
        environment, engine, wheels = made_of(places, name, packages, folder)
        environments.build(environment, engine, wheels, show=False)
        looks[name] = inventory.looks(folder)
        assert shown(environment, "tool") == "tool\n"
        shutil.rmtree(folder)
    own = {"jingxiang.json", "bin/tool"}
    parts = [{path: look for path, look in each.items() if path not in own and not path.startswith("conda-meta/")}
             for each in looks.values()]  # fmt: skip
    assert parts[0] == parts[1]
    assert set(looks["mamba"]) == set(looks["rattler"])


@BOTH
def test_what_was_unpacked_before_and_changed_since_is_not_believed(
    places: Places, packages: list[Path], name: str
) -> None:
    environment, engine, wheels = made_of(places, name, packages)
    environments.build(environment, engine, wheels, show=False)
    shutil.rmtree(environment.folder)
    unpacked = list((wheels.store.derived / "conda" / name).rglob("older.txt"))
    assert unpacked
    for path in unpacked:
        path.chmod(0o644)
        path.write_text("other\n")
    environments.build(environment, engine, wheels, show=False)
    assert (environment.folder / "share" / "older.txt").read_text() == "older\n"
    assert environments.check(environment, wheels).differences == ()


@BOTH
def test_a_package_that_is_damaged_in_the_store_is_never_unpacked(
    places: Places, packages: list[Path], name: str
) -> None:
    environment, engine, wheels = made_of(places, name, packages)
    assert engine.files
    blob = wheels.store.blob(engine.files.packages[1].sha256)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(Damaged):
        environments.build(environment, engine, wheels, show=False)
    assert (blob.exists(), list(places.environments.iterdir())) == (False, [])
    with pytest.raises(Missing):
        environments.build(environment, engine, wheels, show=False)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("bin/python3.11", "changed"),
        ("lib/placed.bin", "changed"),
        ("bin/pydoc3.11", "changed"),
        ("bin/tool", "changed"),
        (f"{SITE}/tool/__init__.py", "changed"),
        ("conda-meta/older-1.0-0.json", "changed"),
        ("ssl/cacert.pem", "missing"),
        ("ssl/cert.pem", "changed"),
        ("lib/python3.11/newcomer.py", "added"),
    ],
)
def test_what_is_not_as_locked_is_found(
    places: Places, packages: list[Path], path: str, kind: str, tmp_path: Path
) -> None:
    environment, engine, wheels = made_of(places, "rattler", packages)
    environments.build(environment, engine, wheels, show=False)
    file = environment.folder / path
    if kind == "missing" or file.is_symlink():
        file.unlink()
    if path == "ssl/cert.pem":
        file.symlink_to("/etc/passwd")
    elif kind != "missing":
        shutil.copy(file if file.exists() else packages[0], tmp_path / "other")
        file.unlink(missing_ok=True)  # it may be a link to what the next environment is made of
        file.write_bytes((tmp_path / "other").read_bytes() + b"\n# more")
    assert environments.check(environment, wheels).differences == (Difference(path, kind),)


def test_who_edits_a_file_and_the_stamp_is_seen_by_the_package(places: Places, packages: list[Path]) -> None:
    environment, engine, wheels = made_of(places, "rattler", packages)
    environments.build(environment, engine, wheels, show=False)
    file, stamp = environment.folder / "share" / "older.txt", environment.folder / "jingxiang.json"
    old = sha256_file(file)
    file.unlink()
    file.write_text("other\n")
    stamp.write_text(stamp.read_text().replace(old, sha256_file(file)))
    assert environments.check(environment, wheels).differences == (Difference("share/older.txt", "changed"),)


def test_without_the_packages_the_stamp_is_compared(places: Places, packages: list[Path]) -> None:
    environment, engine, wheels = made_of(places, "rattler", packages)
    environments.build(environment, engine, wheels, show=False)
    assert environment.conda
    for each in environment.conda.packages:
        wheels.store.blob(each.sha256).unlink()
    found = environments.check(environment, wheels)
    assert (found.differences, found.wheels) == ((), False)
    (environment.folder / "lib" / "placed.bin").unlink()
    found = environments.check(environment, wheels)
    assert found.differences == (Difference("lib/placed.bin", "missing"),)


def test_bytecode_that_python_wrote_for_a_conda_package_is_no_difference(places: Places, packages: list[Path]) -> None:
    environment, engine, wheels = made_of(places, "rattler", packages)
    environments.build(environment, engine, wheels, show=False)
    shown(environment, "tool")
    assert list((environment.folder / SITE / "tool").rglob("*.pyc")) or os.environ.get("PYTHONDONTWRITEBYTECODE")
    assert environments.check(environment, wheels).differences == ()


def test_files_of_the_store_are_not_held_by_what_was_made_of_them(places: Places, packages: list[Path]) -> None:
    environment, engine, wheels = made_of(places, "rattler", packages)
    environments.build(environment, engine, wheels, show=False)
    assert isinstance(engine.files, CondaFiles)
    assert {wheels.store.blob(each.sha256).stat().st_nlink for each in engine.files.packages} == {1}
