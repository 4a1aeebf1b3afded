"""A copy of this checkout as a newcomer has it: the files of git, nothing that was made here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

EMPTY: Mapping[str, str] = MappingProxyType({})
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Checkout:
    """A folder with the project's files, and what its programs find in their environment."""

    folder: Path
    env: Mapping[str, str]

    def environment(self, more: Mapping[str, str] = EMPTY) -> dict[str, str]:
        """Ours, without what belongs to the test run; the download caches stay warm."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JINGXIANG_", "VIRTUAL_ENV"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return {**kept, "LANG": "C.UTF-8", **self.env, **more}

    def run(
        self, *argv: str | Path, cwd: Path | None = None, timeout_s: float = 300, env: Mapping[str, str] = EMPTY
    ) -> Done:
        done = subprocess.run(
            [str(word) for word in argv], cwd=cwd or self.folder, env=self.environment(env), capture_output=True,
            text=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)


def path() -> str:
    """PATH as it is here."""
    return os.environ.get("PATH", os.defpath)


def copy(folder: Path, env: Mapping[str, str] = EMPTY) -> Checkout:
    """Copy every file that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return Checkout(folder, env)


@dataclass
class Change:
    """A file of the checkout has these lines at its end meanwhile."""

    file: Path
    text: str
    before: bytes = b""

    def __enter__(self) -> None:
        self.before = self.file.read_bytes()
        self.file.write_bytes(self.before + f"\n{self.text}\n".encode())

    def __exit__(self, *_: object) -> None:
        self.file.write_bytes(self.before)
