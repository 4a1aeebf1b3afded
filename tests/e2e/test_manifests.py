"""Manifests, as others read and run them: kubernetes-validate, and podman, which runs pods without a cluster"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jingxiang import image_definition, manifests, mirrors, targets
from jingxiang.commands import engines
from jingxiang.manifests import Cluster
from jingxiang.places import here
from jingxiang.targets import KubernetesTarget
from tests.peers import base_image, checkout, podman, system

pytestmark = pytest.mark.e2e
PYTHON = getattr(sys, "_base_executable", sys.executable)
BASE = "tests/debian:bookworm"
NAME = "org.opencontainers.image.ref.name"
READY_S = 120
GOLDEN = Path(__file__).resolve().parent.parent / "data" / "manifests"


def test_no_key_is_misspelt_and_no_value_of_a_wrong_kind(tmp_path: Path) -> None:
    python = engines.tools(here(), mirrors.load(here().root), mirror="auto", name="peers")
    files = sorted(GOLDEN.glob("*.yaml"))
    program = python.with_name("kubernetes-validate")
    done = subprocess.run([program, "--strict", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("passed for resource deployment/") + done.stderr.count("passed for resource deployment/") == 6
    )

    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(files[0].read_text().replace("readinessProbe", "readynessProbe"))
    assert subprocess.run([program, "--strict", wrong], capture_output=True, check=False).returncode != 0


@pytest.fixture
def image(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke image in a folder."""
    registry = system.registry()
    base_image.push(registry, BASE, base_image.tar(tmp_path_factory.getbasetemp()).read_bytes())
    copied = checkout.copy(tmp_path / "checkout", {})
    words = ["build-image", "--model", "smoke", "--profile", "cpu", "--engine", "venv", "--base", f"{registry}/{BASE}"]
    done = copied.run(PYTHON, "tasks.py", *words, "--to", f"oci:{tmp_path}/image", timeout_s=900)
    assert done.code == 0, done.stderr
    return tmp_path / "image"


def passwords(folder: Path) -> Path:
    folder.mkdir()
    (folder / manifests.PASSWORDS).write_text("li:correct-horse\n")
    return folder


def test_the_pod_of_one_card_runs_as_it_is_written(image: Path, tmp_path: Path) -> None:
    """Without the card: a root that cannot be written, no capability, a user of no name, passwords out of a file."""
    target = targets.parse("k8s://prod/video")
    assert isinstance(target, KubernetesTarget)
    cluster = Cluster(target, image_definition.load(here().root), "localhost/jingxiang/smoke:test", "1", on_gpu=False)
    (pod,) = podman.pods(cluster)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):  # podman asks with curl, inside of the container
        del pod["spec"]["containers"][0][probe]
    volume = next(each for each in manifests.stages(cluster)[0].manifests if each["kind"] == "PersistentVolumeClaim")
    # podman 4.3 hands out what is in a Secret as it is encoded: the file of passwords comes from a folder instead
    (source,) = [each for each in pod["spec"]["volumes"] if "secret" in each]
    del source["secret"]
    source["hostPath"] = {"path": str(passwords(tmp_path / "passwords")), "type": "Directory"}
    with podman.podman() as engine:
        index = json.loads((image / "index.json").read_text())
        (name,) = {each.get("annotations", {}).get(NAME) for each in index["manifests"]} - {None}
        loaded = engine.run("pull", "--quiet", f"oci:{image}:{name}").strip()
        engine.run("tag", loaded, "localhost/jingxiang/smoke:test")
        given = manifests.to_yaml([volume, pod])
        engine.run("kube", "play", "-", given=given)
        container = "jingxiang-app-app"
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:7860/readyz').status)"
        python = "/opt/jingxiang/environment/bin/python"
        end = time.monotonic() + READY_S
        while True:
            try:
                assert engine.run("exec", container, python, "-c", ask).strip() == "200"
                break
            except AssertionError:
                assert time.monotonic() < end, engine.log(container)
            time.sleep(1)
        assert engine.run("exec", container, "id", "-u").strip() == "65532"
        write = "import pathlib; pathlib.Path('/opt/jingxiang/x').touch()"
        with pytest.raises(AssertionError, match="Read-only file system"):
            engine.run("exec", container, python, "-c", write)
        login = "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/api/queue')"
        with pytest.raises(AssertionError, match="401"):
            engine.run("exec", container, python, "-c", login)
