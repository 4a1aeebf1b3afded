"""`invoke bench fetch`: how fast the fetch engine is, how much memory it takes, and what a failing mirror costs.

One gigabyte over loopback, its SHA-256 included, beside curl, aria2c and huggingface_hub; then links of known delay and
speed, whose ideal time can be computed; then every fault that we know, one per file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from ci.bench.peers import CLEAN, has_aria2c
from ci.bench.report import Figure, show
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.schedule import Patience
from jingxiang.store import Store
from tests.peers import faults, large, mirror, relay, site
from tests.peers.large import Large
from tests.peers.site import MB, Site, data

ROOT = Path(__file__).resolve().parent.parent.parent
LARGE_BYTES = 1 << 30
RUNS = 6
# A fast and a slow link, as the bar names them.
FAST, SLOW = {"rtt_s": 0.05, "bytes_per_s": 20e6}, {"rtt_s": 0.2, "bytes_per_s": 1e6}
SHAPED = {"weights.bin": 60 * MB, **{f"shard-{number:02}.bin": MB for number in range(20)}}
FAULT_WORKERS = 12  # nearly all of the time is spent on waiting

# What a user's process does, and nothing else: imports, fetch, and how much memory it took.
OURS = """
import json, resource, sys
from pathlib import Path
from jingxiang.fetch import network
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.session import Session
from jingxiang.mirrors import Source
from jingxiang.store import Store

asked = json.loads(sys.argv[1])
sources = [Source(name, name, "hub", "hf", url) for name, url in asked["sources"].items()]
wanted = [Artifact("hub", name, (sha256,), size, *asked["where"], name) for name, sha256, size in asked["files"]]
with Session(Store(Path(asked["store"])), {"hub": sources}) as session:
    report = session.fetch(wanted)
print(json.dumps({
    "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "bytes": {each.mirror: each.size_bytes for each in report.mirrors},
}))
"""
HASH = "import sys, pathlib; from jingxiang.digest import sha256_file; sha256_file(pathlib.Path(sys.argv[1]))"
HUB = """
import sys
from huggingface_hub import snapshot_download
repository, revision, endpoint, folder, workers = sys.argv[1:]
snapshot_download(repository, revision=revision, endpoint=endpoint, local_dir=folder, max_workers=int(workers))
"""


def main() -> None:
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="jingxiang-bench-") as scratch:
        figures = [*loopback(Path(scratch), notes), shaped(Path(scratch), notes), fault_cost(Path(scratch), notes)]
    show("fetch", figures, notes)


def run(argv: list[str | Path], env: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    start = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, env={**CLEAN, **(env or {})}, check=True, capture_output=True, text=True)
    return time.monotonic() - start, done.stdout


def ours(
    sources: Mapping[str, str], store: Path, files: list[tuple[str, str, int]], where: tuple[str, str]
) -> tuple[float, float, dict[str, int]]:
    """Seconds, memory in MB, bytes by mirror."""
    asked = {"sources": sources, "store": str(store), "files": files, "where": where}
    seconds, out = run([sys.executable, "-c", OURS, json.dumps(asked)])
    answer = json.loads(out)
    return seconds, answer["memory_mb"], answer["bytes"]


def loopback(folder: Path, notes: list[str]) -> list[Figure]:
    """Whole processes in turn, each time in another order; every run writes to a new file on the same disk."""
    (folder / "served").mkdir()
    memory: list[float] = []
    seconds: dict[str, list[float]] = {}
    with large.serving(folder / "served", LARGE_BYTES) as served:
        clients = _clients(served, folder, memory)
        for number in range(RUNS + 1):
            names = [*clients]
            for name in names[number % len(names) :] + names[: number % len(names)]:  # each in every place
                (folder / "out").mkdir()
                os.sync()
                taken = clients[name]()
                if number:  # the first round warms up
                    seconds.setdefault(name, []).append(taken)
                shutil.rmtree(folder / "out")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    speed = {name: round(LARGE_BYTES / 1e6 / value) for name, value in median.items()}
    notes.append("1 GiB over loopback, MB/s: " + ", ".join(f"{name} {value}" for name, value in speed.items()))
    notes.append(
        "curl, aria2c and huggingface_hub do not look at the hash there; jingxiang does, and waits for the disk"
    )
    mine = median.pop("jingxiang")
    hub = min(value for name, value in median.items() if name.startswith("huggingface_hub"))
    peers = {name: round(value / mine, 2) for name, value in median.items()}
    return [
        Figure("loopback_vs_curl", round(median["curl"] / mine, 2), "x", 1.0, "higher", peers),
        Figure("loopback_vs_hub", round(hub / mine, 2), "x", 2.0, "higher"),
        Figure("rss_mb", round(max(memory)), "MB", 150),
    ]


def _clients(served: Large, folder: Path, memory: list[float]) -> dict[str, Callable[[], float]]:
    out = folder / "out"
    env = {"HF_HOME": str(out / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def jingxiang() -> float:
        files = [(large.NAME, served.sha256, served.size_bytes)]
        where = (large.REPOSITORY, large.REVISION)
        seconds, taken_mb, _ = ours({"only": served.url}, out / "store", files, where)
        memory.append(taken_mb)
        return seconds

    def curl() -> float:
        return run(["curl", "-sf", "-o", out / "file", served.file_url])[0]

    def curl_and_hash() -> float:
        return curl() + run([sys.executable, "-c", HASH, out / "file"])[0]

    def hub(workers: int) -> Callable[[], float]:
        where: list[str | Path] = [large.REPOSITORY, large.REVISION, served.url, out / "hub"]
        return lambda: run([sys.executable, "-c", HUB, *where, str(workers)], env)[0]

    def aria2c() -> float:
        argv: list[str | Path] = ["aria2c", "-q", "--no-conf", "-x4", "-d", out, "-o", "aria", served.file_url]
        return run(argv)[0]

    found = {
        "jingxiang": jingxiang, "curl": curl, "curl, then sha256": curl_and_hash, "huggingface_hub, 8 workers": hub(8),
        "huggingface_hub, 1 worker": hub(1),
    }  # fmt: skip
    return found | ({"aria2c -x4": aria2c} if has_aria2c() else {})


def shaped(folder: Path, notes: list[str]) -> Figure:
    """A large file and small ones from two mirrors, the fast one first and the slow one first; the worse counts."""
    bodies = {name: data(size, number) for number, (name, size) in enumerate(SHAPED.items())}
    total = sum(map(len, bodies.values()))
    files = [(name, hashlib.sha256(body).hexdigest(), len(body)) for name, body in bodies.items()]
    ideal_s = total / (FAST["bytes_per_s"] + SLOW["bytes_per_s"]) + 2 * FAST["rtt_s"]
    seconds: dict[str, float] = {}
    peers: dict[str, float] = {}
    with ExitStack() as stack:
        origin = stack.enter_context(mirror.serving())
        origin.files = {site.path(name): body for name, body in bodies.items()}
        links = {
            "fast": stack.enter_context(relay.link(origin.url, **FAST)),
            "slow": stack.enter_context(relay.link(origin.url, **SLOW)),
        }
        for order in (("fast", "slow"), ("slow", "fast")):
            name = " before ".join(order)
            store = folder / f"store {name}"
            sources = {each: links[each] for each in order}
            seconds[name], _, brought = ours(sources, store, files, (site.REPOSITORY, site.REVISION))
            shares = ", ".join(f"{each} {count / 1e6:.0f} MB" for each, count in brought.items())
            notes.append(f"{name}: {seconds[name]:.2f} s, ideal {ideal_s:.2f} s; {shares}")
        urls = [f"{links['fast']}{site.path(name)}" for name in bodies]
        outputs = [word for number, url in enumerate(urls) for word in ("-o", str(folder / f"curl-{number}"), url)]
        words: list[str | Path] = ["curl", "-sf", "-Z", "--parallel-max", "4", *outputs]
        peers["curl -Z, fast link only"] = round(run(words)[0] / ideal_s, 2)
        if has_aria2c():
            lines = (f"{links['slow']}{site.path(name)}\t{links['fast']}{site.path(name)}\n" for name in bodies)
            (folder / "list").write_text("".join(lines))
            (folder / "aria").mkdir()
            words = [
                "aria2c",
                "-q",
                "--no-conf",
                "-i",
                folder / "list",
                "-d",
                folder / "aria",
                "-j4",
                "-x4",
                "-k1M",
                "-s8",
            ]
            peers["aria2c, both links"] = round(run(words)[0] / ideal_s, 2)
    return Figure("shaped_vs_ideal", round(max(seconds.values()) / ideal_s, 2), "x", 1.15, peers=peers)


def fault_cost(folder: Path, notes: list[str]) -> Figure:
    """For each fault, a large and a small file from a mirror that has it, and one that has not; as users have it."""

    def cost_s(name: str, length: str) -> float:
        with site.serving(folder / f"{name} {length}", "bad", "good") as found:
            found.patience = Patience()
            known = length == "length known"
            wanted: list[Artifact] = [
                found.add("weights.bin", data(3 * MB), size_known=known),
                found.add("small.json", data(900), size_known=known),
            ]
            bad = found.mirrors["bad"]
            good_s = _fetched_s(found, *wanted)
            found.store = Store(folder / f"{name} {length}" / "again")
            bad.answers[""] = faults.always(bad, faults.FAULTS[name])
            return _fetched_s(found, *wanted) - good_s

    cases = [(name, length) for name in faults.FAULTS for length in ("length known", "length unknown")]
    with ThreadPoolExecutor(FAULT_WORKERS) as pool:
        costs = dict(zip(cases, pool.map(lambda case: cost_s(*case), cases), strict=True))
    worst = max(costs, key=lambda case: costs[case])
    quick = statistics.median(costs.values())
    notes.append(f"{len(cases)} faults; the worst is '{worst[0]}', {worst[1]}; the median costs {quick:.2f} s")
    return Figure("fault_cost_s", round(costs[worst], 1), "s", 8)


def _fetched_s(found: Site, *wanted: Artifact) -> float:
    start = time.monotonic()
    found.fetch(*wanted)
    assert found.has(*wanted)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
