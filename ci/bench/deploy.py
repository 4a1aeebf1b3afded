"""`invoke bench deploy`: how much a change of the code moves to a host, how long it takes, and who notices.

The host is the machine of ci/services.sh: a network, ssh and a docker engine of its own, on the same processor. Twenty
clients follow jobs while the second version comes; what is sent is counted at its cable, with what they ask. Peer, in
the same run: `docker save | ssh docker load` of the same image, which is what people do without a registry.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image as Picture

from ci.bench.image import services
from ci.bench.report import Figure, show
from tests.peers import base_image, checkout, crowd, remote_machine, system
from tests.peers.checkout import ROOT, Checkout
from tests.peers.crowd import Crowd
from tests.peers.remote_machine import NAME, Machine

REPOSITORY = "bench/debian:bookworm"
TARGET = f"ssh://{NAME}"
PORT = 7860
RUNS = 3
JOBS = 3  # one is made, two wait


def main() -> None:
    notes: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jingxiang-bench-")))
        services(stack, folder)
        machine = remote_machine.machine()
        base_image.push(system.registry(), REPOSITORY, base_image.tar(folder).read_bytes())
        path = {"PATH": f"{machine.program(folder / 'bin')}:{checkout.path()}"}
        copied = checkout.copy(folder / "checkout", {"DOCKER_HOST": system.docker_host(), **path})
        (copied.folder / ".venv").symlink_to(ROOT / ".venv")
        show("deploy", figures(copied, machine, notes), notes)


def figures(copied: Checkout, machine: Machine, notes: list[str]) -> list[Figure]:
    first_s, first = deployed(copied)
    notes.append(f"first deployment: {first['sent_bytes'] / 1e6:.0f} MB in {first_s:.1f} s: {first['figures']}")
    checks = [timed(copied, "deploy-check", TARGET, "--profile", "cpu")[0] for _ in range(RUNS)]
    with machine.tunnel(PORT) as url:
        numbers = [crowd.post(url, photo(), seed=number, steps=60) for number in range(JOBS)]
        people = Crowd(url, numbers)
        people.start()
        with (copied.folder / "app" / "picture.py").open("a") as file:
            file.write("\n# changed\n")
        before = machine.sent_bytes
        second_s, second = deployed(copied)
        second_bytes = machine.sent_bytes - before
        people.join()
        lost = JOBS - sum(crowd.job(url, number)["state"] == "done" for number in numbers)
    notes.append(f"second deployment, while {people.count} clients wait: {second['figures']}, {second['strategy']}")
    third_s = timed(copied, "deploy-rollback", TARGET)[0]
    notes.append(f"rollback: {third_s:.1f} s")
    peer_s, peer_bytes = saved_and_loaded(copied, machine)
    peer = "docker save | ssh docker load"
    return [
        Figure("second_deploy_mb", round(second_bytes / 1e6, 2), "MB", 10, peers={peer: round(peer_bytes / 1e6)}),
        Figure("second_deploy_s", round(second_s, 1), "s", 25, peers={f"{peer}, nothing started": round(peer_s, 1)}),
        Figure("preflight_s", round(statistics.median(checks), 2), "s", 5),
        Figure("client_errors", float(len(people.errors)), "", 0),
        Figure("jobs_lost", float(lost), "", 0),
    ]


def deployed(copied: Checkout) -> tuple[float, dict[str, Any]]:
    seconds, out = timed(copied, "deploy", TARGET, *image(), "--json")
    found: dict[str, Any] = json.loads(out)
    return seconds, found


def image() -> list[str]:
    base = f"{system.registry()}/{REPOSITORY}"
    return ["--model", "smoke", "--profile", "cpu", "--engine", "venv", "--base", base]


def timed(copied: Checkout, *words: str) -> tuple[float, str]:
    """Seconds of a whole process, and its stdout."""
    start = time.monotonic()
    done = copied.run(sys.executable, "tasks.py", *words, timeout_s=900)
    if done.code:
        raise RuntimeError(done.stderr)
    return time.monotonic() - start, done.stdout


def saved_and_loaded(copied: Checkout, machine: Machine) -> tuple[float, int]:
    """The image of the second version, once more as a whole: seconds, and bytes that were sent."""
    timed(copied, "build-image", *image(), "--tag", "bench/deploy:1")
    start, before = time.monotonic(), machine.sent_bytes
    save = ["docker", "-H", system.docker_host(), "save", "bench/deploy:1"]
    load = ["ssh", "-F", str(machine.folder / "config"), NAME, "docker load"]
    with subprocess.Popen(save, stdout=subprocess.PIPE) as saving:
        subprocess.run(load, stdin=saving.stdout, stdout=sys.stderr, check=True)
    assert saving.returncode == 0
    return time.monotonic() - start, machine.sent_bytes - before


def photo() -> bytes:
    packed = io.BytesIO()
    Picture.radial_gradient("L").resize((320, 240)).convert("RGB").save(packed, "JPEG")
    return packed.getvalue()


if __name__ == "__main__":
    main()
