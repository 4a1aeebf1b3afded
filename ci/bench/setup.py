"""`invoke bench setup`: how long an installation takes beside pip and uv with the same lock and the same files.

Every run makes a new environment of the CPU lock, bytecode included, as whole processes: pip and uv install from a
folder of the wheels with hashes required; `tasks.py setup` also compares every installed file with its wheel. Then once
with an empty store, through a mirror behind a link of known speed. And a lock of conda packages is made, of a channel
of 200 on this machine, beside plain conda-lock with micromamba, where JINGXIANG_MICROMAMBA names one.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ci.bench.peers import CLEAN
from ci.bench.report import Figure, show
from jingxiang import locks, mirrors, uv_client
from jingxiang.commands import conda_lock, engines
from jingxiang.fetch import resolve
from jingxiang.locks import Lock
from jingxiang.places import here
from jingxiang.store import Store
from jingxiang.wheels import Wheels, known
from tests.peers import channel, checkout, mirror, relay
from tests.peers.checkout import ROOT, Checkout
from tests.peers.mirror import Mirror

PROFILE = "cpu"
PYTHON = "3.11"
RUNS = 3
CHANNEL = 200  # packages, each in three versions
LINK = {"rtt_s": 0.05, "bytes_per_s": 20e6}


@dataclass(frozen=True)
class Bench:
    """A copy of the checkout with a store of its own, the lock, and a folder of its wheels."""

    copied: Checkout
    folder: Path
    lock: Lock
    links: Path

    def setup(self, name: str, store: Path, mirrors: str = "[official]\n") -> float:
        """Seconds of `tasks.py setup` into a home of that name."""
        (self.copied.folder / "mirrors.toml").write_text(mirrors)
        env = {"JINGXIANG_HOME": str(self.folder / name), "JINGXIANG_STORE": str(store)}
        return timed([sys.executable, "tasks.py", "setup", "--profile", PROFILE], self.copied.environment(env),
                     self.copied.folder)  # fmt: skip


def main() -> None:
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="jingxiang-bench-") as scratch:
        bench = prepared(Path(scratch))
        figures = [*warm(bench, notes), cold(bench, notes), no_op(bench), lock(Path(scratch), notes)]
    show("setup", figures, notes)


def timed(argv: Sequence[str | Path], env: Mapping[str, str], cwd: Path = ROOT) -> float:
    """Seconds of a whole process."""
    start = time.monotonic()
    done = subprocess.run(argv, cwd=cwd, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stderr}")
    return time.monotonic() - start


def prepared(folder: Path) -> Bench:
    """Everything is fetched once, through whatever this machine is set to."""
    copied = checkout.copy(folder / "checkout")
    (copied.folder / ".venv").symlink_to(ROOT / ".venv")
    lock = locks.read(ROOT / "envs" / "locks" / f"{PROFILE}.txt")
    bench = Bench(copied, folder, lock, folder / "links")
    bench.setup("first", folder / "store")
    wheels = found(bench, folder / "store")
    bench.links.mkdir()
    for name, sha256 in wheels.digests.items():
        (bench.links / name).symlink_to(wheels.store.blob(sha256))
    return bench


def found(bench: Bench, folder: Path) -> Wheels:
    """The wheels of the lock in a store."""
    store, target = Store(folder), resolve.target(PYTHON)
    wheels = known(store, [package for package in bench.lock.packages if target.wants(package)], target)
    assert wheels is not None
    return wheels


def warm(bench: Bench, notes: list[str]) -> list[Figure]:
    """All in turn, after one round that fills uv's cache."""
    seconds: dict[str, list[float]] = {}
    clients: dict[str, Callable[[], float]] = {
        "jingxiang": lambda: bench.setup("again", bench.folder / "store"),
        "uv --compile-bytecode": lambda: with_uv(bench, "--compile-bytecode"),
        "uv, no bytecode": lambda: with_uv(bench),
        "pip": lambda: with_pip(bench),
    }
    for number in range(RUNS + 1):
        for name, client in clients.items():
            if name == "pip" and number != 1:  # it takes minutes, and has no cache to fill
                continue
            os.sync()
            value = client()
            if number:
                seconds.setdefault(name, []).append(value)
            for made in ("again", "peer"):
                shutil.rmtree(bench.folder / made, ignore_errors=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    files = sum(1 for path in (bench.folder / "first").rglob("*") if path.is_file())
    notes.append(
        f"warm, {len(bench.lock.packages)} packages, {files} files: "
        + ", ".join(f"{name} {value:.1f} s" for name, value in median.items())
    )
    mine = median["jingxiang"]
    return [
        Figure("warm_vs_pip", round(mine / median["pip"], 3), "x", 0.05),
        Figure("warm_vs_uv", round(mine / median["uv --compile-bytecode"], 3), "x", 0.15,
               peers={"uv, no bytecode": round(mine / median["uv, no bytecode"], 2)}),
    ]  # fmt: skip


def with_uv(bench: Bench, *options: str) -> float:
    """A virtual environment and everything in it, with a cache that is warm from the second time on."""
    env = {**CLEAN, "UV_CACHE_DIR": str(bench.folder / "uv"), "UV_NO_CONFIG": "1", "UV_OFFLINE": "1"}
    uv, peer = uv_client.binary(), bench.folder / "peer"
    install: list[str | Path] = [
        uv, "pip", "install", "-q", "--python", peer / "bin/python", "--require-hashes", "--no-deps", "--no-index",
        "--find-links", bench.links, *options, "-r", bench.lock.path,
    ]  # fmt: skip
    return timed([uv, "venv", "-q", "--no-project", "--python", PYTHON, peer], env) + timed(install, env)


def with_pip(bench: Bench) -> float:
    peer = bench.folder / "peer"
    install: list[str | Path] = [
        peer / "bin/python", "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "--no-index",
        "--find-links", bench.links, "-r", bench.lock.path, "--disable-pip-version-check",
    ]  # fmt: skip
    env = {**CLEAN, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    return timed([sys.executable, "-m", "venv", peer], env) + timed(install, env)


def cold(bench: Bench, notes: list[str]) -> Figure:
    """An empty store, and one mirror behind a link of 20 MB/s."""
    wheels = found(bench, bench.folder / "store")
    total = sum(wheels.store.blob(sha256).stat().st_size for sha256 in wheels.digests.values())
    with ExitStack() as stack:
        origin = stack.enter_context(mirror.serving())
        serve(origin, wheels)
        link = stack.enter_context(relay.link(origin.url, **LINK))
        tables = "".join(f'{space} = {{ layout = "pep503", url = "{link}/simple" }}\n' for space in ("pypi", "torch"))
        seconds = bench.setup("cold", bench.folder / "empty", f"[near]\n{tables}")
        shutil.rmtree(bench.folder / "cold")
        warm_s = bench.setup("cold", bench.folder / "empty", f"[near]\n{tables}")
    ideal = total / LINK["bytes_per_s"] + warm_s
    notes.append(
        f"cold, {total / 1e6:.0f} MB through 20 MB/s: {seconds:.1f} s; "
        f"the link alone {total / LINK['bytes_per_s']:.1f} s, warm afterwards {warm_s:.1f} s"
    )
    return Figure("cold_vs_ideal", round(seconds / ideal, 2), "x", 1.15)


def serve(origin: Mirror, wheels: Wheels) -> None:
    """A simple index of the wheels, with hashes."""
    projects: dict[str, list[str]] = {}
    for name, sha256 in wheels.digests.items():
        path = f"/files/{name.replace('+', '%2B')}"
        origin.files[path] = wheels.store.blob(sha256).read_bytes()
        project = name.partition("-")[0].replace("_", "-").lower()
        link = f'<a href="{path}#sha256={sha256}">{name}</a>'
        projects.setdefault(project, []).append(link)
    for project, links in projects.items():
        origin.files[f"/simple/{project}/"] = "<br>".join(links).encode()
        origin.headers[f"/simple/{project}/"] = {"Content-Type": "text/html"}


def no_op(bench: Bench) -> Figure:
    taken = [bench.setup("first", bench.folder / "store") for _ in range(5)]
    return Figure("noop_s", round(statistics.median(taken), 2), "s", 1.0)


def lock(folder: Path, notes: list[str]) -> Figure:
    """Solve and write `conda-lock.yml`, as whole processes, both with empty caches."""
    places = here()
    python = engines.tools(places, mirrors.load(places.root), mirror="auto")
    root, spec = folder / "channel" / "conda-forge", folder / "i2v.yml"
    for number in range(CHANNEL):
        needs = [f"pack{each} >=1" for each in (2 * number + 1, 2 * number + 2) if each < CHANNEL]
        for version in ("1.0", "1.1", "2.0"):
            channel.write(root, f"pack{number}", version, {}, depends=needs)
    channel.index(root)
    mine, theirs = [], []
    for _ in range(RUNS):
        spec.write_text("channels: [conda-forge]\ndependencies: [pack0]\n")
        words = {"spec": str(spec), "current": "", "upgrade": [], "channels": {"conda-forge": root.as_uri()},
                 "cache": str(folder / "lists"), "output": str(folder / "conda-lock.yml")}  # fmt: skip
        (folder / "job.json").write_text(json.dumps(words))
        mine.append(timed([python, "-I", conda_lock.SOLVER, folder / "job.json"], CLEAN))
        shutil.rmtree(folder / "lists", ignore_errors=True)
        if own := os.environ.get(engines.OWN):
            theirs.append(with_conda_lock(python, Path(own), folder, root.as_uri()))
    seconds = statistics.median(mine)
    if not theirs:
        notes.append(f"lock: {seconds:.1f} s; {engines.OWN} names no micromamba for plain conda-lock")
        return Figure("lock_vs_conda_lock", None, "x", 1.0)
    notes.append(f"lock: {seconds:.1f} s, plain conda-lock {statistics.median(theirs):.1f} s")
    return Figure("lock_vs_conda_lock", round(seconds / statistics.median(theirs), 2), "x", 1.0)


def with_conda_lock(python: Path, binary: Path, folder: Path, address: str) -> float:
    spec, made = folder / "plain.yml", folder / "plain-lock.yml"
    spec.write_text(f"channels: ['{address}']\ndependencies: [pack0]\n")
    made.unlink(missing_ok=True)
    home = folder / "user"
    home.mkdir(exist_ok=True)
    words: list[str | Path] = [
        python.with_name("conda-lock"), "lock", "--micromamba", "--conda", binary, "-f", spec, "-p", "linux-64",
        "--lockfile", made,
    ]  # fmt: skip
    seconds = timed(words, {**CLEAN, "HOME": str(home), "MAMBA_ROOT_PREFIX": str(home / "root")})
    shutil.rmtree(home)
    return seconds


if __name__ == "__main__":
    main()
