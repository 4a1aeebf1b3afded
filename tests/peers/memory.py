"""Memory of a made-up size for the workers of an app that is running: it may change while they run.

A card cannot be made up for them, because torch would not find it; but a model on the CPU is held against the RAM in
the same way, with the same answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Python imports it before anything else (see the documentation of `site`).
PATCH = """
import json, pathlib
from app import cards

def ram(*_):
    return cards.Space(False, **json.loads(pathlib.Path({file!r}).read_text()))

cards.ram = ram
"""


@dataclass(frozen=True)
class Ram:
    """What programs with this `environment` take for the memory of the machine."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "ram.json"

    def environment(self, code: Path = ROOT) -> Mapping[str, str]:
        """`code`: the folder that the app is in."""
        return {"PYTHONPATH": os.pathsep.join((str(self.folder), str(code)))}

    def set(self, total_bytes: int, free_bytes: int) -> None:
        """Workers see it with their next beat, after 2 s at most."""
        part = self.folder / "ram.part"
        part.write_text(json.dumps({"total_bytes": total_bytes, "free_bytes": free_bytes}))
        part.replace(self.file)


def made(folder: Path, *, total_bytes: int, free_bytes: int) -> Ram:
    """`folder` is made for it."""
    folder.mkdir()
    ram = Ram(folder)
    ram.set(total_bytes, free_bytes)
    (folder / "sitecustomize.py").write_text(PATCH.format(file=str(ram.file)))
    return ram
