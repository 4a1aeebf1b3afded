"""`invoke bench start --gpu`: from a process to a loaded model, and to the first video, of a model of full size.

The app is started as anybody starts it; its port and `/readyz` are asked from outside, and what its processes reach
meanwhile is in their logs. With artifacts on the shelf: they are compiled first where there are none yet. Then once
more with an empty shelf, beside the first video of a process that does what the documentation of diffusers says.

    --model NAME      (default: i2vgen-xl)
    --folder FOLDER   keep models and compiled artifacts there, and take those that are there (default: a temporary one)
    --commit HASH     what is measured, where there is no git
    --small           the smoke model, on any machine, to try the bench itself
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from app import logs
from app.adapters import loading
from ci.bench import report
from ci.bench.report import Figure
from ci.bench.speed import alone, card, cases
from ci.bench.speed.cases import Case
from ci.bench.speed.ours import Workshop
from ci.bench.speed.stock import drop_caches
from tests.peers.app import App, serving, wait_for

READY = "/readyz says that all is ready"
WAIT_S = 300.0
POLL_S = 0.01
# What the log calls it -> what it is, for people.
EVENTS = {
    logs.STARTED: "the log is open", logs.LOADED: "the model can be used", logs.DONE: "the first video is done",
}  # fmt: skip
PHASES = {
    "imported": "PyTorch and diffusers are imported", "read": "the weights are on the device",
    "built": "the pipeline is complete", "adopted": "what was compiled is adopted",
}  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """Something that has happened, `s` seconds after the app's process was started."""

    s: float
    process: str
    phase: str


@dataclass(frozen=True)
class Start:
    """One start of the app. `video_s`: until the first video is done, `made_s`: what it took to make it."""

    ready_s: float
    video_s: float
    made_s: float
    phases: tuple[Phase, ...]


def main() -> int:
    arguments = _parser().parse_args()
    if not (torch.cuda.is_available() or arguments.small):
        sys.stderr.write("error: this bench needs a CUDA GPU; --small tries it with the smoke model on any machine\n")
        return 1
    notes = []
    with tempfile.TemporaryDirectory(prefix="bench-start-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        name = "smoke" if arguments.small else arguments.model
        ((case, _),) = cases.made(folder / "models", [name], tiny=arguments.small)
        loading.free()
        with Workshop(folder / "artifacts") as workshop:
            workshop.begin(case)
            notes += workshop.end()
        shelf = folder / "artifacts"
        starts = {"first": started(case, folder, shelf), "again": started(case, folder, shelf)}
        with tempfile.TemporaryDirectory(dir=folder) as nothing:
            figures = [without_artifacts(started(case, folder, Path(nothing)), alone.measured(case, None))]
        if not arguments.small and drop_caches():
            starts["with nothing in the page cache"] = started(case, folder, shelf)
    last = starts["again"]
    figures = [
        Figure("ready_s", last.ready_s, "s", 10, peers=_others(starts, "ready_s")),
        Figure("first_video_s", last.video_s, "s", 30, peers=_others(starts, "video_s")),
        *figures,
    ]
    notes.append("phases: of the second start, whose files are in the page cache")
    details = {"machine": card.card(arguments.commit), "phases": [asdict(each) for each in last.phases]}
    report.show("start-gpu", figures, notes, **details)
    return 0


def without_artifacts(own: Start, peer: dict[str, float]) -> Figure:
    """How long making the first video takes, against that of the peer."""
    peer_s = peer[alone.VIDEO] - peer[alone.READY]
    peers = {
        "ours, s": own.made_s, "fp16 eager, s": peer_s, "ours, from the start of the process": own.video_s,
        "fp16 eager, from the start of the process": peer[alone.VIDEO],
    }  # fmt: skip
    rounded = {name: round(seconds, 2) for name, seconds in peers.items()}
    return Figure("first_video_without_artifacts", round(own.made_s / peer_s, 3), "x", 1, peers=rounded)


def started(case: Case, folder: Path, shelf: Path) -> Start:
    """Start the app, wait for `/readyz`, hand in one job, and wait for its video. The app is stopped again."""
    settings = {**asdict(case.preset), "preset": "standard", "prompt": cases.PROMPT, "seed": cases.SEED}
    environment = {"JINGXIANG_ARTIFACTS": str(shelf)}
    start = time.time()
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        serving(folder / "models", Path(scratch), "--model", case.name, env=environment) as app,
    ):
        phases = [Phase(_answered(app, "/healthz", start), "server", "the port answers")]
        phases.append(Phase(_answered(app, "/readyz", start), "server", READY))
        number = app.post(cases.PICTURE, **settings).json()["id"]
        job = app.ended(number, WAIT_S)
        if job["state"] != "done":
            raise RuntimeError(f"the job is {job['state']}: {job.get('reason')}")
        phases += _logged(app, start)
    phases.sort(key=lambda phase: phase.s)
    for phase in phases:
        sys.stderr.write(json.dumps(asdict(phase)) + "\n")
    ready_s = next(phase.s for phase in phases if phase.phase == READY)
    return Start(ready_s, round(job["ended"] - start, 2), job["seconds"], tuple(phases))


def _answered(app: App, path: str, start: float) -> float:
    """Seconds until that address says 200. Raises what `wait_for` raises, or that the app has ended."""

    def answers() -> bool:
        if app.process.poll() is not None:
            raise RuntimeError(app.log.read_text())
        time.sleep(POLL_S)
        try:
            return app.get(path)[0] == 200
        except OSError:  # no port yet
            return False

    wait_for(answers, WAIT_S)
    return round(time.time() - start, 2)


def _logged(app: App, start: float) -> list[Phase]:
    """What the processes have written, and when each began. Of what is said more than once, the last one."""
    found: dict[tuple[str, str], float] = {}
    offset = start - psutil.Process(app.process.pid).create_time()  # the kernel's clock is another one
    for entry in logs.read(app.outputs):
        phase = PHASES.get(str(entry.fields.get("phase")), EVENTS.get(entry.event))
        if entry.event == logs.STARTED:
            pid = int(entry.fields["pid"])
            if pid != app.process.pid:
                found[entry.process, "the process is started"] = psutil.Process(pid).create_time() + offset
        if phase is not None:
            found[entry.process, phase] = entry.time.timestamp()
    return [Phase(round(at - start, 2), process, phase) for (process, phase), at in found.items()]


def _others(starts: dict[str, Start], name: str) -> dict[str, float]:
    return {which: getattr(start, name) for which, start in starts.items() if which != "again"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench start --gpu", description="from a process to the first video")
    parser.add_argument("--model", choices=list(cases.PRESETS), default="i2vgen-xl")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--commit", default="")
    for name in ("gpu", "json", "small"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser
