"""jingxiang.inventory"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from jingxiang import inventory
from jingxiang.digest import sha256_bytes
from jingxiang.inventory import ADDED, CHANGED, MISSING, Difference, Package, Seen

SITE = "lib/site-packages"
INFO = "one-1.0.dist-info"
FILES = {
    "one.py": b"ONE = 1\n",
    "one-1.0.data/purelib/beside.py": b"BESIDE = 2\n",
    "one-1.0.data/data/share/one.txt": b"data",
    "one-1.0.data/scripts/tool": b"#!python\n",
    "vendored/_vendor/other-2.0.dist-info/RECORD": b"nowhere.py,,\n",
    f"{INFO}/METADATA": b"Name: one\n",
}


def line(name: str, body: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(body)}\n"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    record = "".join(line(name, body) for name, body in FILES.items()) + f"{INFO}/RECORD,,\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, body in {**FILES, f"{INFO}/RECORD": record.encode()}.items():
            archive.writestr(name, body)
    path = tmp_path / "one-1.0-py3-none-any.whl"
    path.write_bytes(stream.getvalue())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment into which an installer has put the wheel."""
    script, installer = b"#!/env/bin/python\n", b"uv"
    placed = {
        "pyvenv.cfg": b"home = /usr\n",
        f"{SITE}/one.py": FILES["one.py"],
        f"{SITE}/beside.py": FILES["one-1.0.data/purelib/beside.py"],
        "share/one.txt": FILES["one-1.0.data/data/share/one.txt"],
        "bin/tool": script,
        f"{SITE}/vendored/_vendor/other-2.0.dist-info/RECORD": FILES["vendored/_vendor/other-2.0.dist-info/RECORD"],
        f"{SITE}/{INFO}/METADATA": FILES[f"{INFO}/METADATA"],
        f"{SITE}/{INFO}/INSTALLER": installer,
        f"{SITE}/__pycache__/one.pyc": b"compiled",
    }
    record = "".join(
        [
            line("one.py", FILES["one.py"]),
            line("beside.py", placed[f"{SITE}/beside.py"]),
            line("../../share/one.txt", placed["share/one.txt"]),
            line("../../bin/tool", script),
            line("vendored/_vendor/other-2.0.dist-info/RECORD", b"nowhere.py,,\n"),
            line(f"{INFO}/METADATA", placed[f"{SITE}/{INFO}/METADATA"]),
            line(f"{INFO}/INSTALLER", installer),
            f"{INFO}/RECORD,,\n",
        ]
    )
    placed[f"{SITE}/{INFO}/RECORD"] = record.encode()
    root = tmp_path / "environment"
    for name, body in placed.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    (root / "bin" / "python").symlink_to("/usr/bin/python3")
    return root


BASE = {"pyvenv.cfg": sha256_bytes(b"home = /usr\n"), "bin/python": "-> /usr/bin/python3"}
PYC = [("__pycache__/one.pyc", sha256_bytes(b"compiled"))]


def wrong(folder: Path, *wheels: Path) -> list[Difference]:
    wanted = inventory.expected(SITE, BASE, folder, wheels, PYC)
    return inventory.differences(folder, wanted, ignored=("jingxiang.json",))[1]


def test_what_was_installed_from_the_wheel_is_as_it_should_be(folder: Path, wheel: Path) -> None:
    (folder / "jingxiang.json").write_text("the stamp")
    wanted = inventory.expected(SITE, BASE, folder, [wheel], PYC)
    assert inventory.differences(folder, wanted, ignored=("jingxiang.json",)) == (11, [])


@pytest.mark.parametrize(
    "name",
    [
        "pyvenv.cfg", f"{SITE}/one.py", f"{SITE}/beside.py", "share/one.txt", "bin/tool", f"{SITE}/{INFO}/METADATA",
        f"{SITE}/{INFO}/INSTALLER", f"{SITE}/__pycache__/one.pyc",
    ],
)  # fmt: skip
def test_a_change_and_a_loss_of_any_file_are_seen(folder: Path, wheel: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"#")
    assert wrong(folder, wheel) == [Difference(name, CHANGED)]
    (folder / name).unlink()
    assert wrong(folder, wheel) == [Difference(name, MISSING)]


def test_a_python_that_leads_elsewhere_is_changed(folder: Path, wheel: Path) -> None:
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/tmp/python3")
    assert wrong(folder, wheel) == [Difference("bin/python", CHANGED)]


@pytest.mark.parametrize("name", ["new.txt", f"{SITE}/new.py", f"{SITE}/__pycache__/new.pyc", "bin/new"])
def test_what_nobody_lists_was_added(folder: Path, wheel: Path, name: str) -> None:
    (folder / name).write_text("x")
    assert wrong(folder, wheel) == [Difference(name, ADDED)]


def test_a_link_to_a_folder_is_not_followed(folder: Path, wheel: Path) -> None:
    (folder / "lib64").symlink_to("lib")
    assert wrong(folder, wheel) == [Difference("lib64", ADDED)]


def test_who_edits_a_file_and_the_list_beside_it_is_seen_by_the_wheel(folder: Path, wheel: Path) -> None:
    """And only by it: without the wheel, the list in the environment is all there is."""
    (folder / SITE / "one.py").write_bytes(b"EVIL = 1\n")
    record = folder / SITE / INFO / "RECORD"
    record.write_text(record.read_text().replace(line("one.py", FILES["one.py"]), line("one.py", b"EVIL = 1\n")))
    assert wrong(folder, wheel) == [Difference(f"{SITE}/one.py", CHANGED)]
    assert wrong(folder) == []


def test_a_file_that_is_only_in_the_list_of_the_environment_was_added(folder: Path, wheel: Path) -> None:
    (folder / SITE / "extra.py").write_bytes(b"")
    record = folder / SITE / INFO / "RECORD"
    record.write_text(record.read_text() + line("extra.py", b""))
    assert wrong(folder, wheel) == [Difference(f"{SITE}/extra.py", ADDED)]


def test_a_wheel_that_lists_its_files_without_digests_is_read(folder: Path, wheel: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare" / wheel.name
    bare.parent.mkdir()
    with zipfile.ZipFile(bare, "w") as archive:
        for name, body in FILES.items():
            archive.writestr(name, body)
        archive.writestr(f"{INFO}/RECORD", "".join(f"{name},,\n" for name in (*FILES, f"{INFO}/RECORD")))
    assert wrong(folder, bare) == []
    (folder / SITE / "one.py").write_bytes(b"EVIL = 1\n")
    assert wrong(folder, bare) == [Difference(f"{SITE}/one.py", CHANGED)]


def test_a_file_of_two_wheels_may_be_that_of_either(folder: Path, wheel: Path) -> None:
    wanted = inventory.expected(SITE, BASE, folder, [wheel], PYC)
    wanted[f"{SITE}/one.py"].add(sha256_bytes(b"of the other"))
    (folder / SITE / "one.py").write_bytes(b"of the other")
    assert inventory.differences(folder, wanted) == (11, [])


def test_bytecode_of_unknown_origin_may_be_there_or_not(folder: Path, wheel: Path) -> None:
    wanted = inventory.expected(SITE, BASE, folder, [wheel], [])
    inventory.allow_bytecode(wanted, wanted, "cpython-311")
    (folder / SITE / "__pycache__" / "one.pyc").rename(folder / SITE / "__pycache__" / "one.cpython-311.pyc")
    (folder / SITE / "__pycache__" / "strange.cpython-311.pyc").write_text("x")
    assert inventory.differences(folder, wanted)[1] == [
        Difference(f"{SITE}/__pycache__/strange.cpython-311.pyc", ADDED)
    ]


def test_packages_have_one_spelling_of_their_names(folder: Path) -> None:
    (folder / SITE / "Some_Thing-2.0+cpu.dist-info").mkdir()
    assert inventory.packages(folder / SITE) == [
        Package("some-thing", "2.0+cpu", "Some_Thing-2.0+cpu.dist-info"), Package("one", "1.0", INFO)
    ]  # fmt: skip


def looked(folder: Path, kept: Path) -> str:
    """The digest of `file` in a folder, by way of what was kept of earlier looks."""
    seen = Seen(kept)
    found = inventory.looks(folder, seen)
    seen.keep()
    return found["file"]


def test_a_shared_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path, kept = tmp_path / "folder" / "file", tmp_path / "seen.json"
    path.write_text("one")
    (tmp_path / "link").hardlink_to(path)
    assert looked(tmp_path / "folder", kept) == sha256_bytes(b"one")
    at = path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=(at, at))
    assert looked(tmp_path / "folder", kept) == sha256_bytes(b"one")  # not read: who cares reads it himself
    assert inventory.looks(tmp_path / "folder") == {"file": sha256_bytes(b"two")}
    os.utime(path, ns=(at, at + 1))
    assert looked(tmp_path / "folder", kept) == sha256_bytes(b"two")


def test_a_file_of_one_name_is_always_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("one")
    looked(tmp_path / "folder", tmp_path / "seen.json")
    assert not (tmp_path / "seen.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", "", "3"])
def test_a_broken_file_of_digests_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("one")
    (tmp_path / "seen.json").write_text(text)
    assert looked(tmp_path / "folder", tmp_path / "seen.json") == sha256_bytes(b"one")
