"""`invoke bench engine`: what the queue costs a job, how soon a page hears of it, and whether memory comes back.

On the CPU with the smoke model, whose videos take a fraction of a second: what the queue adds is seen best there. The
peer is the same work in one process without a queue: read the picture, make the video, write it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
from PIL import Image

from ci.bench.report import Figure, show
from tests.peers.app import ROOT, App, serving, wait_for

ROUNDS = 3
JOBS = 20  # of a round
WARM = 10
MANY = 100
LISTENED = 20
CANCELLED = 5
DIRECT = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from app import adapters, generation, picture, provenance, video
from app.adapters.base import Request
from jingxiang import models
folder, photo, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
spec = models.load(Path("app/models.toml")).model("smoke")
model = adapters.load(spec, folder / "smoke")
def make(seed):
    order = generation.order(spec, picture="0" * 64, prompt="a cat", preset="fast", seed=seed)
    (made,) = model.generate([Request(picture.read(photo), order.prompt, order.preset, seed)], lambda *_: None).made
    how = provenance.of(spec, picture=order.picture, seed=seed, settings=order.settings())
    video.write(made.frames, photo.with_name("direct.mp4"), fps=8, made=how)
make(0)
start = time.monotonic()
for seed in range(count):
    make(seed)
print((time.monotonic() - start) / count)
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jingxiang-bench-") as scratch:
        folder = Path(scratch)
        photo = folder / "photo.jpg"
        Image.effect_noise((640, 480), 80).convert("RGB").save(photo)
        with serving(folder / "models", folder, "--waiting", "200", "--batch", "1") as app:
            app.wait_until_ready()
            app.ended(app.post(photo).json()["id"])
            figures = [overhead(app, photo), latency(app, photo), cancelling(app, photo), leak(app, photo)]
    show("engine", figures, [f"{JOBS} jobs a round, {ROUNDS} rounds; memory over {MANY} jobs after {WARM}"])


def overhead(app: App, photo: Path) -> Figure:
    """What a job takes beyond its work: from the first one's start to the last one's end, against the peer."""
    queued, direct = [], []
    for _ in range(ROUNDS):
        queued.append(through_the_queue(app, photo))
        argv = [sys.executable, "-c", DIRECT, str(photo.parent / "models"), str(photo), str(JOBS)]
        done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
        direct.append(float(done.stdout))
    costs = [(ours - peer) * 1000 for ours, peer in zip(queued, direct, strict=True)]
    peers = {
        "a job, queued, ms": round(statistics.median(queued) * 1000, 1),
        "the same without a queue, ms": round(statistics.median(direct) * 1000, 1),
    }
    return Figure("queue_overhead_ms", round(statistics.median(costs), 1), "ms", 30, peers=peers)


def through_the_queue(app: App, photo: Path) -> float:
    """Seconds a job."""
    numbers = [app.post(photo, seed=seed).json()["id"] for seed in range(JOBS)]
    heard(app, numbers[-1])  # without asking all the time, on a machine with few cores
    jobs = [app.job(number) for number in numbers]
    assert {job["state"] for job in jobs} == {"done"}
    return float(max(job["ended"] for job in jobs) - min(job["started"] for job in jobs)) / JOBS


def latency(app: App, photo: Path) -> Figure:
    """From when the worker has said that a job is done to when a client has heard it."""
    late = [heard(app, app.post(photo).json()["id"]) for _ in range(LISTENED)]
    peers = {"the slowest of them": round(max(late) * 1000, 1)}
    return Figure("event_latency_ms", round(statistics.median(late) * 1000, 1), "ms", 200, peers=peers)


def heard(app: App, number: str) -> float:
    with app.client() as client, client.stream("GET", f"/api/jobs/{number}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                job = json.loads(line.removeprefix("data:"))
                if job["state"] == "done":
                    return time.time() - float(job["ended"])
    raise RuntimeError(f"{number} did not end")


def cancelling(app: App, photo: Path) -> Figure:
    """Steps that are still made after a job was cancelled."""
    more = []
    for _ in range(CANCELLED):
        number = app.post(photo, steps=100, preset="standard").json()["id"]
        before = app.running(number, step=3)["step"]
        with httpx.Client(base_url=app.url, trust_env=False) as client:
            before = client.delete(f"/api/jobs/{number}").json()["step"]
        more.append(app.ended(number)["step"] - before)
    return Figure("cancel_steps", max(more), "steps", 1)


def leak(app: App, photo: Path) -> Figure:
    """Growth of the server and its worker."""
    run(app, photo, WARM)
    before = resident(app)
    run(app, photo, MANY)
    after = resident(app)
    peers = {f"{name}, MB": round((after[name] - before[name]) / 1e6, 1) for name in before}
    return Figure("leak_mb", round((sum(after.values()) - sum(before.values())) / 1e6, 1), "MB", 20, peers=peers)


def run(app: App, photo: Path, count: int) -> None:
    """So many jobs, each followed by a client of its own; their traces are forgotten."""
    numbers = [app.post(photo, seed=seed).json()["id"] for seed in range(count)]
    with ThreadPoolExecutor(LISTENED) as pool:
        list(pool.map(lambda number: heard(app, number), numbers[:LISTENED]))
    heard(app, numbers[-1])
    with app.client() as client:
        for number in numbers:
            client.delete(f"/api/jobs/{number}")
        wait_for(lambda: client.get("/api/queue").json()["running"] == 0)


def resident(app: App) -> dict[str, int]:
    process = psutil.Process(app.process.pid)
    (worker,) = process.children()
    return {"server": process.memory_info().rss, "worker": worker.memory_info().rss}


if __name__ == "__main__":
    main()
