"""Both READMEs: the same structure and commands, and true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[int]:
    """The level of each heading, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)]


def commands(text: str) -> list[str]:
    """Code blocks and inline code, in order."""
    return [body for _, body in BLOCK.findall(text)] + re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def test_both_have_the_same_headings() -> None:
    assert headings(ENGLISH) == headings(CHINESE)
    assert len(headings(ENGLISH)) > 5


def test_both_have_the_same_commands() -> None:
    assert commands(ENGLISH) == commands(CHINESE)


def test_the_chinese_one_is_chinese() -> None:
    for paragraph in BLOCK.sub("", CHINESE).split("\n\n"):
        if not paragraph.startswith(("Apache", "# jingxiang")) and paragraph.strip():
            assert re.search(r"[\u4e00-\u9fff]", paragraph), paragraph


def test_every_task_in_them_exists() -> None:
    listed = subprocess.run(
        [str(ROOT / ".venv" / "bin" / "python"), "tasks.py", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    tasks = set(re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE))
    named = set(re.findall(r"python3 tasks\.py ([a-z][a-z-]*)", ENGLISH))
    assert named <= tasks
    assert named == tasks


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_every_path_in_them_exists(text: str) -> None:
    for path in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE):
        assert (ROOT / path).exists(), path
    headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in text.splitlines()}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.removeprefix("#") in headings if target.startswith("#") else (ROOT / target).exists(), target
