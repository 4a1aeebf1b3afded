"""podman: pods and their volumes and secrets as Kubernetes' manifests have them, without a cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jingxiang import manifests
from jingxiang.manifests import Cluster, Manifest
from tests.peers import system


@dataclass
class Podman:
    """One with a place of its own, of which nothing stays."""

    folder: Path
    said: str = ""  # by the last command on stderr

    def run(self, *words: str | Path, given: str = "") -> str:
        """What it prints. Raises `AssertionError` with why it did not."""
        own: list[str | Path] = [
            "--root",
            self.folder / "root",
            "--runroot",
            self.folder / "run",
            "--storage-driver",
            "overlay",
        ]
        own += [
            "--tmpdir",
            self.folder / "tmp",
            "--cgroup-manager",
            "cgroupfs",
            "--runtime",
            "runc",
            "--events-backend",
            "file",
        ]
        # As root it asks for more than it is given itself inside of a container.
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
        )
        env = {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}
        argv: list[str | Path] = ["podman", *own, *words]
        done = subprocess.run(argv, input=given, env=env, capture_output=True, text=True, check=False)
        self.said = done.stderr
        assert done.returncode == 0, f"podman {' '.join(map(str, words))}: {done.stderr}"
        return done.stdout

    def log(self, container: str) -> str:
        """What the container has printed."""
        return self.run("logs", container) + self.said


@contextlib.contextmanager
def podman() -> Iterator[Podman]:
    system.require(shutil.which("podman"), "no podman: apt-get install podman catatonit")
    if not _is_mount("/"):
        pytest.skip("podman neither unpacks layers nor starts containers in a chroot")
    with tempfile.TemporaryDirectory(prefix="jx-", dir="/tmp") as folder:  # the paths of its sockets have to be short
        found = Podman(Path(folder))
        try:
            yield found
        finally:
            found.run("pod", "rm", "--all", "--force")
            found.run("system", "reset", "--force")


def _is_mount(path: str) -> bool:
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
    return any(mount[4] == path for mount in mounts)


def pods(cluster: Cluster) -> Iterator[Manifest]:
    """The pods alone, as a program without a control plane runs them (`podman kube play`)."""
    for stage in manifests.stages(cluster):
        for each in stage.manifests:
            if each["kind"] == "Deployment":
                template = each["spec"]["template"]
                metadata = {"name": each["metadata"]["name"], "labels": template["metadata"]["labels"]}
                yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
