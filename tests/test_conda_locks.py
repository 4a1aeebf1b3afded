"""jingxiang.conda_locks: locks of conda packages, as conda-lock writes them"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jingxiang import conda_locks, locks
from jingxiang.errors import TableError
from jingxiang.locks import CondaPackage
from tests.peers import conda

ROOT = Path(__file__).resolve().parent.parent
A, M = "a" * 64, "b" * 32
ENTRY: dict[str, Any] = {
    "name": "zstd", "version": "1.5.7", "manager": "conda", "platform": "linux-64", "dependencies": {"libzlib": ">=1"},
    "url": "https://conda.anaconda.org/conda-forge/linux-64/zstd-1.5.7-hb78ec9c_6.conda",
    "hash": {"md5": M, "sha256": A}, "build": "hb78ec9c_6", "category": "main", "optional": False,
}  # fmt: skip


def read(tmp_path: Path, text: str) -> conda_locks.CondaLock:
    path = tmp_path / "conda-lock.yml"
    path.write_text(text, encoding="utf-8")
    return conda_locks.read(path)


def test_a_lock_is_read_as_conda_lock_writes_it(tmp_path: Path) -> None:
    found = read(tmp_path, conda.body([ENTRY]))
    package = CondaPackage("zstd", "1.5.7", "conda-forge", "linux-64/zstd-1.5.7-hb78ec9c_6.conda", A)
    assert found.packages == (package,)
    assert (package.file, package.url) == ("zstd-1.5.7-hb78ec9c_6.conda", ENTRY["url"])


def test_the_lock_of_the_repository_is_complete() -> None:
    """python 3.11 of conda-forge, and near 20 packages in all: no ffmpeg, no pip."""
    found = conda_locks.read(ROOT / "envs" / "locks" / "conda-lock.yml")
    found.check_fresh(ROOT / "envs" / "i2v.yml")
    versions = {each.name: each.version for each in found.packages}
    assert versions["python"].startswith("3.11.")
    assert versions.keys() >= {"ca-certificates", "openssl", "libzlib", "tzdata"}
    assert versions.keys().isdisjoint({"ffmpeg", "pip"})
    assert (len(versions), {each.channel for each in found.packages}) == (22, {"conda-forge"})


def test_the_micromamba_of_the_repository_is_the_pinned_one() -> None:
    found = conda_locks.micromamba(ROOT / "envs" / "locks")
    assert found.package == CondaPackage(
        "micromamba", "2.9.0", "conda-forge", "linux-64/micromamba-2.9.0-0.tar.bz2",
        "8761c382127e6363bd9e0a2451aa3ef90d071a79133f736e2f759a3bf13040dd",
    )  # fmt: skip
    assert found.binary == "bin/micromamba"
    assert found.binary_sha256 == "366cd9cd8be14df1ab8ed50352a82111082a36686b2d389fdb79a92c3fafb3e3"


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda each: each["hash"].pop("sha256"), "zstd: not a SHA-256 of 64 lower-case hex digits"),
        (lambda each: each["hash"].update(sha256=A.upper()), "zstd: not a SHA-256 of 64 lower-case hex digits"),
        (lambda each: each["hash"].update(sha256=A[1:]), "zstd: not a SHA-256 of 64 lower-case hex digits"),
        (
            lambda each: each.update(url=each["url"].replace("conda.anaconda.org", "mirror.example")),
            "zstd: not the address of a package at https://conda.anaconda.org",
        ),
        (lambda each: each.update(url=each["url"].replace("conda-forge", "t/secret/conda-forge")), "zstd: not the"),
        (lambda each: each.update(url=each["url"].replace("linux-64/", "linux-64/../")), "zstd: not the address"),
        (lambda each: each.update(url=each["url"].replace("linux-64", "osx-arm64")), "zstd: not the address"),
        (lambda each: each.update(url=each["url"] + "#" + A), "zstd: not the address"),
        (lambda each: each.update(manager="pip"), "zstd: only conda packages for linux-64; Python packages are locked"),
        (lambda each: each.update(platform="osx-64"), "zstd: only conda packages for linux-64"),
        (lambda each: each.pop("url"), "not a lock of conda-lock, version 1"),
    ],
)
def test_what_could_be_installed_unchecked_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    entry = copy.deepcopy(ENTRY)
    edit(entry)
    with pytest.raises(TableError) as caught:
        read(tmp_path, conda.body([entry]))
    assert caught.value.message.startswith(f"envs/locks/conda-lock.yml: {problem}")


@pytest.mark.parametrize("text", ["", "[]", "version: 1\n", "version: 1\npackage: 3\n", "a: b: c"])
def test_what_is_no_such_lock_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(TableError) as caught:
        read(tmp_path, text)
    assert caught.value.message == "envs/locks/conda-lock.yml: not a lock of conda-lock, version 1"


def test_another_version_of_the_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"version: should be 1$"):
        read(tmp_path, conda.body([ENTRY], version=2))


def test_a_lock_that_was_edited_and_one_of_another_spec_are_told(tmp_path: Path) -> None:
    spec = tmp_path / "i2v.yml"
    spec.write_text("channels: [conda-forge]\n")
    text = locks.written(spec, conda.body([ENTRY]))
    read(tmp_path, text).check_fresh(spec)
    with pytest.raises(locks.EditedLock):
        read(tmp_path, text.replace("1.5.7", "1.5.8")).check_fresh(spec)
    spec.write_text("channels: [conda-forge]\ndependencies: [python]\n")
    with pytest.raises(locks.StaleLock, match=r"^envs/locks/conda-lock\.yml: is older than envs/i2v\.yml"):
        read(tmp_path, text).check_fresh(spec)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: i2v\n", "channels: not an environment file with a list of channels"),
        (
            "channels: [https://mirror.example/conda-forge]\n",
            "channels: 'https://mirror.example/conda-forge' is not the",
        ),
    ],
)
def test_channels_are_names_never_addresses(tmp_path: Path, text: str, problem: str) -> None:
    spec = tmp_path / "i2v.yml"
    spec.write_text(text)
    with pytest.raises(TableError) as caught:
        conda_locks.channels(spec)
    assert caught.value.message.startswith(f"envs/i2v.yml: {problem}")
    spec.write_text("channels: [conda-forge, nodefaults]\n")
    assert conda_locks.channels(spec) == ["conda-forge"]
