"""A worker from its first moment to its first video, without a queue, a page or a file: for machines that have PyTorch
and diffusers alone. `bench start --gpu` measures the whole app.

    python -m ci.bench.speed.alone MODEL MODELS ARTIFACTS    what a line of JSON on stdout says when it is done
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from app import readahead

if TYPE_CHECKING:
    from ci.bench.speed.cases import Case

STARTED, READY, VIDEO = "started_s", "ready_s", "first_video_s"


def measured(case: Case, shelf: Path) -> dict[str, float]:
    """Seconds since its process was started. Raises `CalledProcessError`."""
    argv = [sys.executable, "-m", "ci.bench.speed.alone", case.name, str(case.folder.parent), str(shelf)]
    start = time.time()
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: round(at - start, 2) for name, at in found.items()}


def main(name: str, models: str, shelf: str) -> None:
    """The moments, as `time.time()` has them."""
    moments = {STARTED: time.time()}
    readahead.begin(Path(models) / name)
    from ci.bench.speed import cases
    from ci.bench.speed.ours import Ours

    (case, _), *_ = cases.made(Path(models), [name], tiny=name == "smoke")
    moments["imported_s"] = time.time()
    own = Ours(case, Path(shelf))
    moments[READY] = time.time()
    own.make(case.preset.steps, lambda: None)
    moments[VIDEO] = time.time()
    sys.stdout.write(json.dumps(moments) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
