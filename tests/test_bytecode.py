"""jingxiang.bytecode, with the Python that runs the tests and wheels that are really unpacked"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import py_compile
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from jingxiang import bytecode
from jingxiang.bytecode import Python
from jingxiang.process import ProcessFailed
from jingxiang.storage import StoreFull, Tally
from jingxiang.store import Store
from jingxiang.wheels import Wheels

TAG = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"
FILES = {
    "one/__init__.py": "def fail():\n    raise ValueError\n",
    "one/deep/data.txt": "no Python",
    "one/deep/more.py": "MORE = 1\n",
    "one/template.py": "class {{ name }}:\n",
    "one-1.0.dist-info/METADATA": "Name: one\n",
    "one-1.0.data/purelib/beside.py": "BESIDE = 2\n",
    "one-1.0.data/scripts/run.py": "print()\n",
}
COMPILED = {
    f"one/__pycache__/__init__.{TAG}.pyc",
    f"one/deep/__pycache__/more.{TAG}.pyc",
    f"__pycache__/beside.{TAG}.pyc",
}


@pytest.fixture(scope="module")
def python() -> Python:
    return bytecode.ask(Path(sys.executable))


def packed(store: Store, folder: Path, files: dict[str, str], name: str = "one") -> Wheels:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in files.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    path.write_bytes(stream.getvalue())
    return Wheels(store, {path.name: store.add(path)})


def unpacked(folder: Path, files: dict[str, str]) -> Path:
    """As an installer does it."""
    for name, text in files.items():
        path = folder / name.replace("one-1.0.data/purelib/", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    return packed(Store(tmp_path / "store"), tmp_path, FILES)


def pycs(folder: Path) -> dict[str, str]:
    found = sorted(folder.rglob("*.pyc"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_every_python_file_of_a_wheel_gets_its_bytecode(python: Python, wheels: Wheels, tmp_path: Path) -> None:
    site = unpacked(tmp_path / "site", FILES)
    total = bytecode.install(python, site, wheels, tmp_path / "kept")
    found = pycs(site)
    assert set(found) == COMPILED  # not the template, and not the script
    assert total == Tally(3, sum((site / name).stat().st_size for name in found))
    assert dict(bytecode.digests(python.tag, wheels, tmp_path / "kept")) == found


def test_the_same_source_gives_the_same_bytes_wherever_and_whenever(
    python: Python, wheels: Wheels, tmp_path: Path
) -> None:
    sites = [unpacked(tmp_path / name, FILES) for name in ("a", "somewhere/else")]
    for number, site in enumerate(sites):
        bytecode.install(python, site, wheels, tmp_path / f"kept {number}")
    assert pycs(sites[0]) == pycs(sites[1])


def test_it_is_what_pythons_own_compiler_makes(python: Python, wheels: Wheels, tmp_path: Path) -> None:
    site = unpacked(tmp_path / "site", FILES)
    bytecode.install(python, site, wheels, tmp_path / "kept")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(
        str(site / "one/__init__.py"), str(tmp_path / "own"), "one/__init__.py", True, invalidation_mode=mode
    )
    assert (site / f"one/__pycache__/__init__.{TAG}.pyc").read_bytes() == (tmp_path / "own").read_bytes()


def test_another_release_of_the_same_python_does_not_get_it(python: Python, wheels: Wheels, tmp_path: Path) -> None:
    """3.11.2 and 3.11.7 have one magic number, and compile some files to other bytes: an image would then depend on
    who had filled the store."""
    assert python.tag == f"{TAG}-{platform.python_version()}"
    older = Python(python.path, "3.11.0", f"{TAG}-3.11.0")
    sites = [unpacked(tmp_path / name, FILES) for name in ("a", "b")]
    for each, site in zip((older, python), sites, strict=True):
        bytecode.install(each, site, wheels, tmp_path / "kept")
    assert not {path.stat().st_ino for path in sites[0].rglob("*.pyc")} & {
        path.stat().st_ino for path in sites[1].rglob("*.pyc")
    }


def test_it_is_compiled_once_and_then_linked(python: Python, wheels: Wheels, tmp_path: Path) -> None:
    first, second = unpacked(tmp_path / "a", FILES), tmp_path / "b"
    bytecode.install(python, first, wheels, tmp_path / "kept")
    second.mkdir()
    bytecode.install(python, second, wheels, tmp_path / "kept")
    same = {(first / name).stat().st_ino == (second / name).stat().st_ino for name in COMPILED}
    assert same == {True}
    assert {(second / name).stat().st_mode & 0o777 for name in COMPILED} == {0o444}


def test_what_installers_take_for_a_package_is_linked_apart(python: Python, tmp_path: Path) -> None:
    """So that the rest can be linked while an installer works there, which looks for folders of that name first."""
    wheels = packed(Store(tmp_path / "store"), tmp_path, {**FILES, "one-1.0.dist-info/licenses/AUTHORS.py": "A = 1\n"})
    bytecode.prepare(python, wheels, tmp_path / "kept")
    site = tmp_path / "site"
    site.mkdir()
    bytecode.link(python, site, wheels, tmp_path / "kept")
    assert pycs(site).keys() == COMPILED
    assert not (site / "one-1.0.dist-info").exists()
    assert bytecode.link(python, site, wheels, tmp_path / "kept", info=True).files == 1
    info = f"one-1.0.dist-info/licenses/__pycache__/AUTHORS.{TAG}.pyc"
    assert pycs(site).keys() == COMPILED | {info}


def test_python_uses_it_without_the_source_being_older_and_names_the_right_file(
    python: Python, wheels: Wheels, tmp_path: Path
) -> None:
    site = unpacked(tmp_path / "site", FILES)
    bytecode.install(python, site, wheels, tmp_path / "kept")
    for path in site.rglob("*.py"):
        os.utime(path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import one, one.deep.more\n"
        "print(one.__cached__, one.fail.__code__.co_filename, one.deep.more.MORE)"
    )
    argv = [sys.executable, "-v", "-I", "-c", code, str(site)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"{site}/one/__pycache__/__init__.{TAG}.pyc {site}/one/__init__.py 1\n"
    assert f"code object from '{site}/one/__pycache__/__init__.{TAG}.pyc'" in done.stderr


def test_what_a_killed_run_left_half_made_is_not_taken_for_whole(
    python: Python, wheels: Wheels, tmp_path: Path
) -> None:
    """It wrote beside, and had not come to the renaming."""
    site, kept = unpacked(tmp_path / "site", FILES), tmp_path / "kept"
    sha256 = next(iter(wheels.digests.values()))
    (kept / python.tag / "dead.part" / sha256).mkdir(parents=True)
    bytecode.install(python, site, wheels, kept)
    assert set(pycs(site)) == COMPILED


def test_several_at_once_end_with_the_same(python: Python, wheels: Wheels, tmp_path: Path) -> None:
    sites = [unpacked(tmp_path / f"site {number}", FILES) for number in range(3)]
    threads = [
        threading.Thread(target=bytecode.install, args=(python, site, wheels, tmp_path / "kept")) for site in sites
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [set(pycs(site)) for site in sites] == [COMPILED] * 3
    sha256 = next(iter(wheels.digests.values()))
    assert {path.name for path in (tmp_path / "kept" / python.tag).iterdir()} == {sha256, f"{sha256}.json"}


def test_many_files_of_several_wheels_are_read_by_several_processes(python: Python, tmp_path: Path) -> None:
    """More than one takes at a time, and compressed: a place in a file that two of them share is noticed."""
    store = Store(tmp_path / "store")
    digests: dict[str, str] = {}
    for name in ("one", "two", "three"):
        files = {f"{name}/m{number}.py": f"VALUE = {'+'.join(['1'] * (number + 1))}\n" for number in range(200)}
        digests |= packed(store, tmp_path, files, name).digests
    (tmp_path / "site").mkdir()
    total = bytecode.install(python, tmp_path / "site", Wheels(store, digests), tmp_path / "kept")
    assert total.files == 600


def test_a_name_that_leads_out_of_the_folder_is_left_out(python: Python, tmp_path: Path) -> None:
    files = {"one.py": "", "../out.py": "", "/out.py": "", "one-1.0.data/purelib/../../out.py": "", "a/./b.py": ""}
    wheels = packed(Store(tmp_path / "store"), tmp_path, files)
    (tmp_path / "site").mkdir()
    assert bytecode.install(python, tmp_path / "site", wheels, tmp_path / "kept").files == 1
    assert not [path for path in tmp_path.rglob("*.pyc") if "out" in path.name]


def test_digests_that_a_power_cut_has_emptied_count_as_none(python: Python, wheels: Wheels, tmp_path: Path) -> None:
    bytecode.install(python, unpacked(tmp_path / "site", FILES), wheels, tmp_path / "kept")
    next((tmp_path / "kept" / python.tag).glob("*.json")).write_text("")
    assert list(bytecode.digests(python.tag, wheels, tmp_path / "kept")) == []


def test_a_disk_that_refuses_the_last_step_is_told(
    python: Python, wheels: Wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.is_dir():
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(StoreFull):
        bytecode.install(python, unpacked(tmp_path / "site", FILES), wheels, tmp_path / "kept")


def test_a_wheel_without_python_has_none(python: Python, tmp_path: Path) -> None:
    wheels = packed(Store(tmp_path / "store"), tmp_path, {"data.txt": "x"})
    (tmp_path / "site").mkdir()
    assert bytecode.install(python, tmp_path / "site", wheels, tmp_path / "kept") == Tally()
    assert list(bytecode.digests(python.tag, wheels, tmp_path / "kept")) == []


def test_a_wheel_that_was_not_compiled_has_no_digests(python: Python, wheels: Wheels, tmp_path: Path) -> None:
    assert list(bytecode.digests(python.tag, wheels, tmp_path / "kept")) == []


def test_a_python_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"^python ended with exit code 127"):
        bytecode.ask(tmp_path / "nowhere")


def test_a_compiler_that_fails_leaves_nothing_behind(python: Python, wheels: Wheels, tmp_path: Path) -> None:
    site = unpacked(tmp_path / "site", FILES)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no room >&2; exit 3\n")
    broken.chmod(0o755)
    with pytest.raises(ProcessFailed, match=r"^compile\.py ended with exit code 3\nno room"):
        bytecode.install(Python(broken, python.version, python.tag), site, wheels, tmp_path / "kept")
    assert list((tmp_path / "kept" / python.tag).iterdir()) == []
