"""The app's own way: `app.adapters`, with what was compiled for this model, this size and this card."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from app import adapters
from app.adapters.base import Made
from app.artifacts import Shelf
from ci.bench.speed.cases import ROOT, Case
from ci.bench.speed.stock import device

if TYPE_CHECKING:
    from app.video import Frames


class Ours:
    """A loaded model. `how`: compiled, or eager where there is nothing on the shelf for it."""

    def __init__(self, case: Case, shelf: Path) -> None:
        self.case = case
        self.model = adapters.load(case.spec, case.folder)
        self.how = "eager"
        key, artifacts = self.model.compilation(case.preset), Shelf(shelf)
        found = artifacts.find(key) if key else None
        if key and found:
            with artifacts.adopting(key):
                self.model.adopt(found, artifacts.scratch())
            self.how = "compiled"

    def make(self, steps: int, on_step: Callable[[], None]) -> Frames:
        """The video's frames. Raises `BrokenOutput`."""
        (made,) = self.model.generate([self.case.request(steps)], lambda *_: on_step()).made
        if not isinstance(made, Made):
            raise made
        return made.frames


class Workshop:
    """Compiles what is not on the shelf yet as a user does, with `warm`, for all models at the same time."""

    def __init__(self, shelf: Path) -> None:
        self.shelf = shelf
        self._begun: dict[str, tuple[float, subprocess.Popen[str]]] = {}

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, process in self._begun.values():
            process.terminate()  # it ends what it has started, which kill() would leave
        for _, process in self._begun.values():
            process.communicate()
        self._begun.clear()

    def begin(self, case: Case) -> None:
        """Nothing happens without a GPU."""
        if device() != "cuda":
            return
        preset = case.preset
        argv = [
            sys.executable, "-m", "app", "warm", "--json", "--model", case.name, "--models", str(case.folder.parent),
            "--artifacts", str(self.shelf), "--preset", "standard", "--width", str(preset.width),
            "--height", str(preset.height), "--frames", str(preset.frames),
        ]  # fmt: skip
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._begun[case.name] = (time.monotonic(), process)

    def end(self) -> list[str]:
        """Wait for all; what came of each."""
        said = []
        for name, (start, process) in self._begun.items():
            out, _ = process.communicate()
            if process.returncode:
                said.append(f"{name}: not compiled, `warm` ended with exit code {process.returncode}")
            else:
                (made,) = json.loads(out)["artifacts"]
                said.append(f"{name}: {_account(made, time.monotonic() - start)}")
        self._begun.clear()
        return said


def _account(made: dict[str, float], wall_s: float) -> str:
    if not made["seconds"]:
        return "was compiled before"
    return (
        f"{made['files']} files, {made['bytes'] / 1e6:.0f} MB, compiled in {made['seconds']:.0f} s beside other work "
        f"({wall_s:.0f} s with the start of its process)"
    )
