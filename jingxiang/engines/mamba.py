"""The `mamba` engine: micromamba, which installs from a list of exact files that it finds in its own cache.

What it leaves open is closed here: it checks only the hash that a line ends with, and not at all if that is malformed
(`conda_locks` lets none through); asks the network for what it does not find, whatever it is told (every file is put
there first, and its proxy is a closed port); and takes over what was unpacked before without a look (its folder is in
our workshop, and the result is compared with the packages themselves). It reads no settings and writes to no home.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from jingxiang import process
from jingxiang.conda_packages import CondaFiles

CLOSED = "http://127.0.0.1:9"  # the discard port: nobody answers there


@dataclass(frozen=True)
class Mamba:
    """`binary`: micromamba; `files`: what it is to install."""

    binary: Path
    files: CondaFiles
    name: str = "mamba"

    def make(self, folder: Path, final: Path, workshop: Path) -> None:
        with (
            self.files.room(workshop, self.name) as root,
            tempfile.TemporaryDirectory(prefix="jingxiang-mamba-") as scratch,
        ):
            listed = Path(scratch) / "explicit.txt"
            lines = [f"{each.url}#sha256:{each.sha256}\n" for each in self.files.packages]
            listed.write_text("".join(["@EXPLICIT\n", *lines]), encoding="utf-8")
            env = {"HOME": scratch, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
            env |= {f"{scheme}_proxy": CLOSED for scheme in ("http", "https", "all")}
            argv: list[str | Path] = [
                self.binary, "create", "--quiet", "--yes", "--offline", "--no-rc", "--no-env", "--no-pyc",
                "--root-prefix", root, "--prefix", folder, "--relocate-prefix", final, "--file", listed,
            ]  # fmt: skip
            process.check(argv, name="micromamba create", env=env)
        self.files.tidy(folder, final)
