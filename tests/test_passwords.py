"""jingxiang.passwords; tests/test_access.py has the app read such files"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang import passwords
from jingxiang.errors import UsageError


def test_names_keep_their_order_and_comments_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("# who may\n\nwang:correct-horse\nli:battery:staple\n")
    assert list(passwords.read(tmp_path / "file").items()) == [("wang", "correct-horse"), ("li", "battery:staple")]


@pytest.mark.parametrize(("content", "words"), [
    (b"li\n", ":1: must be NAME:PASSWORD, with 8 characters or more"),
    (b"# x\nli:short\n", ":2: must be NAME:PASSWORD"),
    (b"li:correct-horse\nwang:correct-horse\n", ":2: a name or password is there twice"),
    (b"# nobody\n", ": has no line NAME:PASSWORD"),
    (b"li:\xff\xfe\xff\xfe\xff\xfe\xff\xfe\n", ": cannot be read"),
])  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        passwords.read(tmp_path / "file")
    assert caught.value.message.startswith(f"{tmp_path}/file{words}")
