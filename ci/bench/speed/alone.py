"""A process from its first moment to its first video, without a queue, a page or a file: that of a worker, or its peer,
which does what the documentation of diffusers says, in fp16. `bench start --gpu` measures the whole app.

    python -m ci.bench.speed.alone MODEL MODELS [ARTIFACTS]    a line of JSON on stdout when it is done; without
                                                               ARTIFACTS: the peer
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


def measured(case: Case, shelf: Path | None) -> dict[str, float]:
    """Seconds since its process was started; without a shelf those of the peer. Raises `CalledProcessError`."""
    argv = [sys.executable, "-m", "ci.bench.speed.alone", case.name, str(case.folder.parent)]
    argv += [str(shelf)] if shelf is not None else []
    start = time.time()
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: round(at - start, 2) for name, at in found.items()}


def main(name: str, models: str, shelf: str = "") -> None:
    """The moments, as `time.time()` has them."""
    moments = {STARTED: time.time()}
    if shelf:
        readahead.begin(Path(models) / name)
    from ci.bench.speed import cases
    from ci.bench.speed.ours import Ours
    from ci.bench.speed.stock import Stock, half

    (case, _), *_ = cases.made(Path(models), [name], tiny=name == "smoke")
    moments["imported_s"] = time.time()
    made: Ours | Stock = Ours(case, Path(shelf)) if shelf else Stock(case, half())
    moments[READY] = time.time()
    made.make(case.preset.steps, lambda: None)
    moments[VIDEO] = time.time()
    sys.stdout.write(json.dumps(moments) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
