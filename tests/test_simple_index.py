"""jingxiang.simple_index"""

from __future__ import annotations

import json

import pytest

from jingxiang import simple_index
from jingxiang.locks import LockedPackage
from jingxiang.simple_index import File

A, B = "a" * 64, "b" * 64
PAGE = "https://near.example/simple/my-package/"


def listed(*names: str, sha256: str = "") -> list[File]:
    return [File(f"https://near.example/{name}", sha256) for name in names]


def test_html_and_json_say_the_same() -> None:
    html = (
        f'<a href="../../f/x-1-py3-none-any.whl#sha256={A}">x</a><a href="/y-1.tar.gz#md5=0">y</a><a href="../">up</a>'
    )
    files = [
        {"url": "../../f/x-1-py3-none-any.whl", "hashes": {"sha256": A}},
        {"url": "/y-1.tar.gz", "hashes": {"md5": "0"}},
        {"url": "../"},
    ]
    expected = [File("https://near.example/f/x-1-py3-none-any.whl", A), File("https://near.example/y-1.tar.gz", "")]
    assert simple_index.files(html.encode(), PAGE) == expected
    assert simple_index.files(json.dumps({"files": files}).encode(), PAGE) == expected


@pytest.mark.parametrize(
    ("said", "size_bytes"), [(1234, 1234), (0, 0), (-1, None), ("12", None), (1.5, None), (True, None), (None, None)]
)
def test_only_json_says_how_long_a_file_is(said: object, size_bytes: int | None) -> None:
    files = [{"url": "/x-1.tar.gz", "size": said}]
    assert simple_index.files(json.dumps({"files": files}).encode(), PAGE) == [
        File("https://near.example/x-1.tar.gz", "", size_bytes)
    ]


@pytest.mark.parametrize(
    "body", [b"", b"<html>Welcome", b"{", b"{}", b'{"files": {}}', b'{"files": [0, {"url": 1}]}', b"\xff"]
)
def test_what_is_no_index_lists_nothing(body: bytes) -> None:
    assert simple_index.files(body, PAGE) == []


@pytest.mark.parametrize(
    ("name", "version", "file", "same"),
    [
        ("my-package", "1.0", "my_package-1.0-py3-none-any.whl", True),
        ("my.package", "1.0", "My_Package-1.0-py3-none-any.whl", True),
        ("my-package", "1.0", "my-package-1.0.tar.gz", True),
        ("torch", "2.0+cpu", "torch-2.0%2Bcpu-cp311-cp311-linux_x86_64.whl", True),
        ("my-package", "1.0", "my_package-1.0.1-py3-none-any.whl", False),
        ("my-package", "1.0", "my_package-1.00-py3-none-any.whl", False),
        ("my-package", "1.0", "my_package-1x0-py3-none-any.whl", False),
        ("my-package", "1.0", "my-package-extra-1.0.tar.gz", False),
        ("package", "1.0", "my_package-1.0-py3-none-any.whl", False),
        ("torch", "2.0+cpu", "torch-2.0%2Bcu128-cp311-cp311-linux_x86_64.whl", False),
    ],
)
def test_a_file_is_of_the_locked_version_or_not(name: str, version: str, file: str, same: bool) -> None:
    found = simple_index.of_version(listed(file), LockedPackage(name, version, "", (A,)))
    assert bool(found) is same


def test_a_locked_hash_counts_most_then_a_wheel() -> None:
    package = LockedPackage("x", "1", "", (A,))
    archive, wheel = listed("x-1.tar.gz", "x-1-py3-none-any.whl", sha256=A)
    unknown, other = listed("x-1-cp311.whl"), listed("x-1-cp312.whl", sha256=B)
    assert simple_index.locked([archive, wheel, *unknown, *other], package) == wheel
    assert simple_index.locked([*unknown, archive, *other], package) == archive
    assert simple_index.locked([*other, *unknown], package) == unknown[0]
    assert simple_index.locked(other, package) is None
