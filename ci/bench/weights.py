"""`invoke bench weights`: a model of one gigabyte over loopback beside huggingface_hub, eight files on slow
connections, and a second run. Whole processes, in the same run; ours compares every hash and waits for the disk."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from ci.bench.fetch import HUB, run
from ci.bench.report import Figure, show
from tests.peers import checkout, hub, large, mirror, site
from tests.peers.checkout import ROOT, Checkout
from tests.peers.site import MB, data

LARGE_BYTES = 1 << 30
RUNS = 5
CONNECTION_BYTES_PER_S = 4e6
LIMITS = "width = 64\nheight = 64\nmultiple = 8\nframes = 8\nsteps = 4\nfps = [1, 30]\nguidance = [1.0, 20.0]\n"
MEMORY = "weights_gib = 1.0\ndenoising_gib = 0.5\ndecoding_gib = 2.0\ndecode_chunk = 4\n"
PRESET = "width = 64\nheight = 64\nframes = 8\nsteps = 4\nfps = 8\nguidance = 9.0\n"


def main() -> None:
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="jingxiang-bench-") as scratch:
        figures = [loopback(Path(scratch), notes), *slow_connections(Path(scratch), notes)]
    show("weights", figures, notes)


def prepared(folder: Path, repository: str, revision: str, url: str) -> Checkout:
    """A copy of the checkout with one model on one mirror."""
    copied = checkout.copy(folder / "checkout", {"HF_HOME": str(folder / "hf")})
    (copied.folder / ".venv").symlink_to(ROOT / ".venv")
    (copied.folder / "mirrors.toml").write_text(f'[near]\nhub = {{ layout = "hf", url = "{url}" }}\n')
    with (copied.folder / "app" / "models.toml").open("a", encoding="utf-8") as table:
        table.write(
            '\n[bench]\ntitle = { en = "B", zh = "B" }\npipeline = "i2vgen-xl"\n[bench.weights]\n'
            'licence = { name = "L", url = "https://example.org", commercial = true, free = true }\n'
            f'[bench.weights.parts.model]\nrepository = "{repository}"\nrevision = "{revision}"\n'
            f'files = ["*.safetensors"]\n[bench.limits]\n{LIMITS}[bench.memory]\n{MEMORY}'
            f"[bench.presets.standard]\n{PRESET}[bench.presets.fast]\n{PRESET}"
        )
    return copied


def fetched_s(copied: Checkout, home: Path) -> float:
    """Seconds of `tasks.py fetch` into an own store, in a home where the disk has been measured already."""
    variables = {"JINGXIANG_HOME": str(copied.folder / "home"), "JINGXIANG_STORE": str(home / "store")}
    shutil.rmtree(copied.folder / "home" / "models", ignore_errors=True)
    env = copied.environment(variables)
    start = time.monotonic()
    done = copied.run(sys.executable, "tasks.py", "fetch", "bench", "--mirror", "near", env=env)
    if done.code:
        raise RuntimeError(done.stderr)
    return time.monotonic() - start


def loopback(folder: Path, notes: list[str]) -> Figure:
    """In turn, each time in another order; every run writes to a new file on the same disk."""
    (folder / "served").mkdir()
    seconds: dict[str, list[float]] = {"jingxiang": [], "huggingface_hub": []}
    with large.serving(folder / "served", LARGE_BYTES) as served:
        copied = prepared(folder, large.REPOSITORY, large.REVISION, served.url)
        env = {"HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        where: list[str | Path] = [large.REPOSITORY, large.REVISION, served.url, folder / "theirs"]
        fetched_s(copied, folder / "ours")  # locks it
        for number in range(RUNS):
            for name in sorted(seconds, reverse=bool(number % 2)):
                for made in ("ours", "theirs", "home"):
                    shutil.rmtree(folder / made, ignore_errors=True)
                os.sync()
                if name == "jingxiang":
                    seconds[name].append(fetched_s(copied, folder / "ours"))
                else:
                    seconds[name].append(run([sys.executable, "-c", HUB, *where, "1"], env)[0])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    notes.append("1 GiB over loopback: " + ", ".join(f"{name} {value:.2f} s" for name, value in median.items()))
    return Figure("speed_vs_hub", round(median["huggingface_hub"] / median["jingxiang"], 2), "x", 2.0, "higher")


def slow_connections(folder: Path, notes: list[str]) -> list[Figure]:
    """Eight files from a server each of whose connections brings 4 MB/s, with as many connections as we make to one;
    then again, when all of them are here."""
    files = {f"shard-{number}.safetensors": data(32 * MB, number) for number in range(8)}
    with ExitStack() as stack:
        served = stack.enter_context(mirror.serving())
        revision = hub.add(served, "org/shards", files)
        copied = prepared(folder / "slow", "org/shards", revision, served.url)
        fetched_s(copied, folder / "first")
        for path in files:
            address = f"/org/shards/resolve/{revision}/{path}"
            served.answers[address] = site.limited(served, int(CONNECTION_BYTES_PER_S))
        served.most = 0
        seconds = fetched_s(copied, folder / "second")
        before = served.connections
        again = statistics.median(fetched_s(copied, folder / "second") for _ in range(5))
        requests = served.connections - before
    total = sum(map(len, files.values()))
    link = CONNECTION_BYTES_PER_S * served.most
    notes.append(f"8 files of 32 MiB, {served.most} connections of 4 MB/s: {seconds:.2f} s, ideal {total / link:.2f} s")
    return [
        Figure("link_use", round(total / link / seconds, 2), "", 0.9, "higher"),
        Figure("noop_requests", requests, "", 0),
        Figure("noop_s", round(again, 2), "s", 0.3),
    ]


if __name__ == "__main__":
    main()
