"""jingxiang.digest"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from jingxiang import digest

# FIPS 180-4's own example.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bytes_have_the_digest_of_the_standard() -> None:
    assert digest.sha256_bytes(b"abc") == ABC


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest.sha256_file(tmp_path / "abc") == ABC


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_file_around_the_size_of_a_block_is_read_to_its_end(tmp_path: Path, extra: int) -> None:
    data = bytes(range(256)) * (2 * digest.BLOCK_BYTES // 256) + b"xyz"
    data = data[: 2 * digest.BLOCK_BYTES + extra]
    (tmp_path / "blocks").write_bytes(data)
    assert digest.sha256_file(tmp_path / "blocks") == hashlib.sha256(data).hexdigest()


def test_equal_values_are_written_alike_whatever_their_order() -> None:
    assert digest.canonical_json({"b": [1, 2.5, None], "a": "镜像"}) == '{"a":"镜像","b":[1,2.5,null]}'.encode()
    assert digest.canonical_json({"b": 1, "a": 2}) == digest.canonical_json({"a": 2, "b": 1})


def test_people_see_the_first_8_digits() -> None:
    assert digest.short(ABC) == "ba7816bf"
