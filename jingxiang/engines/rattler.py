"""The `rattler` engine: py-rattler, a conda client that is a wheel, for where micromamba cannot be had or run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jingxiang import process
from jingxiang.conda_packages import CondaFiles

INSTALLER = Path(__file__).with_name("link.py")


@dataclass(frozen=True)
class Rattler:
    """`python`: one that has py-rattler; `files`: what is to be installed."""

    python: Path
    files: CondaFiles
    name: str = "rattler"

    def make(self, folder: Path, final: Path, workshop: Path) -> None:
        with (
            self.files.room(workshop, self.name) as root,
            tempfile.TemporaryDirectory(prefix="jingxiang-rattler-") as scratch,
        ):
            job = Path(scratch) / "job.json"
            packages = [str(root / "pkgs" / each.file) for each in self.files.packages]
            words = {
                "packages": packages,
                "prefix": str(folder),
                "final": str(final),
                "cache": str(root / "unpacked"),
            }
            job.write_text(json.dumps(words), encoding="utf-8")
            process.check([self.python, "-I", INSTALLER, job], name="py-rattler", env={"HOME": scratch})
        self.files.tidy(folder, final)
