"""`invoke bench image`: how long it takes to get 2 GB of weights into an engine or a registry.

Peers, with the same files on the same base: `docker build` with COPY through the SDK, and buildah where it is
installed. Floor: `dd` of the same bytes with fsync, before and after. Then the whole command with the environment of
the app: without a change, after a change of the code, to a registry again; and the container's start. An engine and a
registry of its own are started for it (ci/services.sh).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from docker import DockerClient
from PIL import Image as Picture

from ci.bench.report import Figure, show
from jingxiang import images, layers, models, weights
from jingxiang.base_images import Blob
from jingxiang.digest import sha256_file
from jingxiang.fetch import network
from jingxiang.fetch.client import Client
from jingxiang.images import Image, Layer
from jingxiang.layers import Digests, FileContent
from jingxiang.sinks.base import Sink
from jingxiang.sinks.docker_load import DockerLoad
from jingxiang.sinks.registry import Registry
from jingxiang.store import Store
from jingxiang.weights import LockedFile, LockedPart
from tests.peers import base_image, checkout, system
from tests.peers.checkout import ROOT, Checkout

SIZES = (180_000_000, 400_000_000, 1_100_000_000, 320_000_000)  # as an fp16 image-to-video model has them
REPOSITORY = "bench/debian:bookworm"
BLOCK = 8 << 20
RUNS = 3
LOOK_S = 0.1
SCRATCH = {"/tmp": ""}  # noqa: S108 (in a container)
TABLE = """
[bench]
title = { en = "Bench", zh = "基准" }
pipeline = "i2vgen-xl"
weights.licence = { name = "MIT", url = "https://example.com/licence", commercial = true, free = true }
weights.parts.model = { repository = "org/bench", revision = "1111111111111111111111111111111111111111", files = ["*"] }
limits = { width = 64, height = 64, multiple = 8, frames = 8, steps = 8, fps = [1, 30], guidance = [1.0, 20.0] }
memory = { weights_gib = 1.0, denoising_gib = 0.5, decoding_gib = 2.0, decode_chunk = 4 }
presets.standard = { width = 64, height = 64, frames = 8, steps = 4, fps = 8, guidance = 9.0 }
presets.fast = { width = 64, height = 64, frames = 8, steps = 4, fps = 8, guidance = 9.0 }
"""


@dataclass(frozen=True)
class Bench:
    """Files of weights, the base image, and where images can go."""

    folder: Path
    files: tuple[Path, ...]
    tar: Path
    base: str
    engine: DockerClient
    url: str
    registry: str

    @property
    def total(self) -> int:
        return sum(SIZES)


def main() -> None:
    notes: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jingxiang-bench-")))
        services(stack, folder)
        bench = prepared(stack, folder)
        figures = [*weights_alone(bench, notes), *whole_command(bench, notes)]
    show("image", figures, notes)


def services(stack: ExitStack, folder: Path) -> None:
    """An engine and a registry, on the disk of the temporary files; in a short path, for their sockets."""
    place = Path(tempfile.mkdtemp(prefix="jx-", dir="/tmp"))
    script = ROOT / "ci" / "services.sh"
    stack.callback(lambda: shutil.rmtree(place, ignore_errors=True))
    stack.callback(lambda: subprocess.run(["bash", script, "stop", place / "s"], check=False))
    subprocess.run(["bash", script, "start", place / "s"], check=True, stdout=sys.stderr)
    for line in (place / "s" / "environment").read_text().splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        os.environ[name] = value
    os.environ["DOCKER_HOST"] = system.docker_host()


def prepared(stack: ExitStack, folder: Path) -> Bench:
    files = []
    for number, size in enumerate(SIZES):
        path = folder / f"weights-{number}.safetensors"
        with path.open("wb") as file:
            for start in range(0, size, BLOCK):
                file.write(os.urandom(min(BLOCK, size - start)))
        files.append(path)
    tar, registry = base_image.tar(folder), system.registry()
    base_image.push(registry, REPOSITORY, tar.read_bytes())
    client = DockerClient(base_url=system.docker_host(), timeout=3600)
    stack.callback(client.close)
    client.images.pull(f"{registry}/{REPOSITORY.partition(':')[0]}", tag="bookworm")
    return Bench(folder, tuple(files), tar, f"{registry}/{REPOSITORY}", client, system.docker_host(), registry)


def weights_alone(bench: Bench, notes: list[str]) -> list[Figure]:
    """The same layers of weights on the same base: load, build, push, in turn; the floor before each.

    Files are read for their digests once, when an image is put together, and never again: that is timed apart, and
    counts beside `docker build`, which has it in its time.
    """
    seconds: dict[str, list[float]] = {"floor": [], "digests": []}
    peaks: dict[str, int] = {}
    for number in range(RUNS):
        start = time.monotonic()
        image = planned(bench, number)
        seconds["digests"].append(time.monotonic() - start)
        with closing(Client(network.Network())) as client:
            for name, way in ways(bench, image, number, client).items():
                seconds["floor"].append(floor(bench))
                os.sync()
                taken, peak = timed_with_disk(bench, way)
                seconds.setdefault(name, []).append(taken)
                peaks[name] = max(peaks.get(name, 0), peak)
                forget(bench)
    if buildah_s := buildah(bench, notes):
        seconds["buildah"] = [buildah_s]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = {name: value / median["floor"] for name, value in median.items()}
    listed = "; ".join(f"{name} {', '.join(f'{each:.1f}' for each in values)} s" for name, values in seconds.items())
    needed = bench.total + max(SIZES)
    notes += [
        f"{bench.total / 1e9:.2f} GB in {len(SIZES)} files; floor: dd with fsync: {listed}",
        f"the engine's disk while loading: {peaks['load'] / 1e9:.2f} GB more at most (all layers and the largest: "
        f"{needed / 1e9:.2f} GB); docker build: {peaks['docker build'] / 1e9:.2f} GB",
    ]
    peers = {name: round(value, 2) for name, value in ratio.items() if name in ("docker build", "buildah")}
    return [
        Figure("load_vs_floor", round(ratio["load"], 2), "x", 3.0, peers=peers),
        Figure("load_vs_docker_build", round((ratio["digests"] + ratio["load"]) / ratio["docker build"], 2), "x", 0.6),
        Figure("push_vs_floor", round(ratio["push"], 2), "x", 1.4),
    ]


def ways(bench: Bench, image: Image, number: int, client: Client) -> dict[str, Callable[[], None]]:
    """What is timed, for one round: nothing that a round before has left helps it."""
    address, note = f"{bench.registry}/bench/weights{number}", bench.folder / f"registries-{number}.json"
    return {
        "load": lambda: put(image, DockerLoad(bench.url, "bench/load:1")),
        "docker build": lambda: docker_build(bench),
        "push": lambda: put(image, Registry.of(address, "1", client=client, note=note)),
    }


def put(image: Image, sink: Sink) -> None:
    sink.put(image, sink.held(image.layers), lambda count: None)


def floor(bench: Bench) -> float:
    """Seconds of copying the same bytes on the same disk, until they are there."""
    target = bench.folder / "copy"
    os.sync()

    def copy() -> None:
        for path in bench.files:
            argv = ["dd", f"if={path}", f"of={target}", "bs=4M", "oflag=append", "conv=notrunc,fsync", "status=none"]
            subprocess.run(argv, check=True)

    seconds = timed(copy)
    target.unlink()
    return seconds


def planned(bench: Bench, number: int) -> Image:
    """The image of the files, each of which is read for its digest."""
    trees = [(path.name, layers.tree([layers.file(f"models/{path.name}", path)])) for path in bench.files]
    made = Digests(bench.folder / f"digests-{number}").layers(images.WEIGHTS, trees)
    config = {"architecture": "amd64", "os": "linux"}
    return images.image(config, [base_layer(bench), *made], {}, created="1980-01-02T00:00:00Z")


def base_layer(bench: Bench) -> Layer:
    """The base as the engine has it: its tar is never sent."""
    described = bench.engine.images.get(bench.base).attrs["RootFS"]["Layers"]
    assert len(described) == 1
    ((digest, size),) = base_image.layers(bench.registry, REPOSITORY).items()
    blob = Blob(digest.removeprefix("sha256:"), f"{images.TAR}+gzip", size)
    packed = bench.folder / "base.tar.gz"
    if not packed.exists():
        url = f"http://{bench.registry}/v2/{REPOSITORY.partition(':')[0]}/blobs/{digest}"
        with build_opener(ProxyHandler({})).open(url) as answer:
            packed.write_bytes(answer.read())
    return Layer(images.BASE, "", blob, described[0].removeprefix("sha256:"), FileContent(packed))


def docker_build(bench: Bench) -> None:
    """What people do: a folder with a Dockerfile that copies the weights."""
    context = bench.folder / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(f"FROM {bench.base}\nCOPY *.safetensors /models/\n")
    for path in bench.files:
        if not (context / path.name).exists():
            (context / path.name).hardlink_to(path)
    bench.engine.images.build(path=str(context), tag="bench/build:1", rm=True)


def buildah(bench: Bench, notes: list[str]) -> float | None:
    """Seconds of the same with buildah, in a storage of its own; None where it is not installed."""
    if not shutil.which("buildah"):
        notes.append("buildah is not installed: no peer")
        return None
    storage = ["--root", str(bench.folder / "buildah"), "--runroot", str(bench.folder / "buildah-run")]
    argv = ["buildah", *storage, "bud", "--timestamp", "0", "--tls-verify=false", "-t", "bench/buildah:1", "context"]
    return timed(lambda: subprocess.run(argv, check=True, cwd=bench.folder, capture_output=True))


def timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def timed_with_disk(bench: Bench, work: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and by how much the disk was fuller at most."""
    before, most, over = shutil.disk_usage(bench.folder).used, 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(LOOK_S):
            most = max(most, shutil.disk_usage(bench.folder).used - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return timed(work), most
    finally:
        over.set()
        thread.join()


def forget(bench: Bench) -> None:
    """All images but the base."""
    for image in bench.engine.images.list():
        if any(tag.startswith("bench/") for tag in image.tags):
            bench.engine.images.remove(str(image.id), force=True)
    bench.engine.images.prune()
    os.sync()


def whole_command(bench: Bench, notes: list[str]) -> list[Figure]:
    """`tasks.py build-image` as whole processes, with the app's environment and both models."""
    forget(bench)
    one, two = (placed(bench, name) for name in ("one", "another name"))
    to = f"registry://{bench.registry}/bench/app:1"
    first_s, first = built(bench, one)
    pushed_s, _ = built(bench, one, "--to", to)
    _, other = built(bench, two, "--to", to, umask="077")
    with (one.folder / "app" / "page.py").open("a") as file:
        file.write("\n# changed\n")
    rebuild_s, rebuilt = built(bench, one)
    built(bench, one, "--to", to)
    repush_s, repushed = built(bench, one, "--to", to)
    again_s, _ = built(bench, one)
    assert repushed["sent_bytes"] == 0, repushed
    notes.append(
        f"image of {first['size_bytes'] / 1e9:.1f} GB, whole processes: first build and load {first_s:.1f} s, push "
        f"{pushed_s:.1f} s, build and load again without a change {again_s:.1f} s"
    )
    starts = [first_answer(bench, rebuilt["name"]) for _ in range(RUNS)]
    notes.append(f"from the start of a container to /healthz: {', '.join(f'{each:.2f}' for each in starts)} s")
    video_s = first_video(bench, rebuilt["name"])
    return [
        Figure("same_digest", float(first["digest"] == other["digest"]), "", 1, "higher"),
        Figure("rebuild_s", round(rebuild_s, 2), "s", 3),
        Figure("rebuild_moved_mb", round(rebuilt["sent_bytes"] / 1e6, 2), "MB", 5),
        Figure("repush_s", round(repush_s, 2), "s", 1),
        Figure("start_http_s", round(statistics.median(starts), 2), "s", 1),
        Figure("first_video_s", round(video_s, 1), "s", 20),
    ]


def placed(bench: Bench, name: str) -> Checkout:
    """A copy of the checkout in which the files of weights are a model, and in the store."""
    store = bench.folder / "store"
    env = {"JINGXIANG_STORE": str(store), "DOCKER_HOST": bench.url, "TZ": "Asia/Shanghai" if " " in name else "UTC"}
    copied = checkout.copy(bench.folder / name / "checkout", env)
    (copied.folder / ".venv").symlink_to(ROOT / ".venv")
    with (copied.folder / "app" / "models.toml").open("a") as file:
        file.write(TABLE)
    listed = []
    for path in bench.files:
        sha256 = sha256_file(path)
        blob = Store(store).blob(sha256)
        if not blob.exists():
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.hardlink_to(path)
        listed.append(LockedFile(path.name, path.stat().st_size, sha256))
    wanted = models.load(copied.folder / models.FILE).model("bench").weights
    assert wanted
    part = LockedPart(wanted.parts[0].repository, wanted.parts[0].revision, tuple(listed))
    (copied.folder / weights.LOCK).write_text(weights.written({"bench": weights.lock(wanted, [part])}))
    return copied


def built(bench: Bench, copied: Checkout, *words: str, umask: str = "022") -> tuple[float, dict[str, Any]]:
    """Seconds of a whole process, and what it says."""
    argv = [
        "sh", "-c", f'umask {umask}; exec "$@"', "sh", sys.executable, "tasks.py", "build-image", "--model", "smoke",
        "--model", "bench", "--profile", "cpu", "--engine", "venv", "--base", bench.base, "--json", *words,
    ]  # fmt: skip
    start = time.monotonic()
    done = copied.run(*argv, timeout_s=1800)
    seconds = time.monotonic() - start
    if done.code:
        raise RuntimeError(done.stderr)
    return seconds, json.loads(done.stdout)


def first_answer(bench: Bench, name: str) -> float:
    """Seconds from the start of a container to its first answer."""
    port = system.free_port()
    start = time.monotonic()
    container = bench.engine.containers.run(
        name, detach=True, network_mode="host", read_only=True, tmpfs=SCRATCH, environment={"JINGXIANG_PORT": str(port)}
    )
    try:
        while not answers(f"http://127.0.0.1:{port}/healthz"):
            assert time.monotonic() < start + 60, container.logs()
            time.sleep(0.01)
        return time.monotonic() - start
    finally:
        container.remove(force=True)


def first_video(bench: Bench, name: str) -> float:
    """Seconds from the start of a container to the end of one that makes a video."""
    outputs = bench.folder / "outputs"
    outputs.mkdir()
    outputs.chmod(0o777)
    Picture.radial_gradient("L").convert("RGB").save(outputs / "picture.png")
    words = ["generate", "--image", "/outputs/picture.png", "--prompt", "waves", "--out", "/outputs/waves.mp4"]
    volumes = {str(outputs): {"bind": "/outputs", "mode": "rw"}}
    seconds = timed(
        lambda: bench.engine.containers.run(
            name, words, read_only=True, tmpfs=SCRATCH, network_mode="none", remove=True, volumes=volumes
        )
    )
    assert (outputs / "waves.mp4").stat().st_size > 0
    return seconds


def answers(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=1) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
