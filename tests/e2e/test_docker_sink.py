"""jingxiang.sinks.docker_load and docker_engine against a real engine"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from jingxiang import images
from jingxiang.images import Image
from jingxiang.layers import Changed
from jingxiang.sinks import docker_engine
from jingxiang.sinks.base import SinkFull
from jingxiang.sinks.docker_engine import EngineUnavailable
from jingxiang.sinks.docker_load import DockerLoad, LoadFailed, Step, steps
from tests.peers import sinks as contract
from tests.peers import system

pytestmark = pytest.mark.e2e
MB = 1_000_000


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> str:
    host = system.docker_host()
    monkeypatch.setenv("DOCKER_HOST", host)
    return host


@pytest.fixture
def client(url: str) -> Iterator[DockerClient]:
    """The engine, without the images of these tests before and after."""
    found = DockerClient(base_url=url)
    forget(found)
    yield found
    forget(found)
    found.close()


def forget(client: DockerClient) -> None:
    for image in client.images.list(name="tests/image"):
        for tag in image.tags:
            client.images.remove(tag)
    client.images.prune()  # what had a name before another image got it


def everything(client: DockerClient) -> set[str]:
    return {str(image.id) for image in client.images.list(all=True)}


def names(image: Image) -> set[str]:
    """What engines call it: by its configuration, or, where they keep images in containerd, by its manifest."""
    return {image.id, image.digest}


def files(client: DockerClient, name: str) -> dict[str, bytes]:
    """What an image holds, as the engine exports it."""
    container = client.containers.create(name)
    try:
        blocks: Any = container.export()
        body = b"".join(blocks)
    finally:
        container.remove()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        found = {}
        for member in archive:
            if member.isfile() and (reading := archive.extractfile(member)):
                found[member.name] = reading.read()
    return found


def test_an_engine_fulfils_the_contract(client: DockerClient, url: str, tmp_path: Path) -> None:
    before = everything(client)
    first, second = contract.check(lambda tag: DockerLoad(url, tag), tmp_path)
    assert everything(client) - before <= names(first) | names(second), "nothing of the parts is left"
    image = client.images.get("tests/image:one")
    assert image.id in names(second)
    assert image.attrs["RootFS"]["Layers"] == [f"sha256:{layer.diff_id}" for layer in second.layers]
    assert image.attrs["Config"]["User"] == "65532:65532"
    found = files(client, "tests/image:one")
    assert found["app/main.py"] == b"print('two')\n"
    assert len(found["models/one"]) == 200_000


def test_large_layers_go_one_by_one_and_their_bytes_are_right(client: DockerClient, url: str, tmp_path: Path) -> None:
    image = contract.image(tmp_path, large=70 * MB)
    plan = steps(image, frozenset())
    assert [each.count for each in plan] == [2, 4]
    before = everything(client)
    contract.put(DockerLoad(url, "tests/image:large"), image)
    (made,) = everything(client) - before
    assert made in names(image)
    assert files(client, "tests/image:large")["models/one"][:4] == hashlib.shake_256(b"1").digest(4)


def test_which_layers_go_in_which_archive(tmp_path: Path) -> None:
    image = contract.image(tmp_path)
    held = frozenset(layer.blob.sha256 for layer in image.layers[:3])
    assert steps(image, frozenset()) == [Step(4, image.layers)]
    assert steps(image, held) == [Step(4, image.layers[3:])]
    assert steps(image, held | {image.layers[3].blob.sha256}) == [Step(4, ())]


def test_an_engine_that_has_less_than_it_said_gets_everything(client: DockerClient, url: str, tmp_path: Path) -> None:
    image = contract.image(tmp_path)
    sent: list[int] = []
    sink = DockerLoad(url, "tests/image:one")
    sink.put(image, frozenset(layer.blob.sha256 for layer in image.layers[:2]), sent.append)
    assert sink.has(image)
    assert sum(sent) > sum(layer.blob.size for layer in image.layers)


def test_what_fails_midway_leaves_nothing(client: DockerClient, url: str, tmp_path: Path) -> None:
    image = contract.image(tmp_path, large=70 * MB)
    before = everything(client)

    class Broken:
        def blocks(self) -> Iterator[bytes]:
            yield from list(image.layers[3].content.blocks())[:1]
            raise Changed("app")

    layers = (*image.layers[:3], images.Layer("app", "", image.layers[3].blob, image.layers[3].diff_id, Broken()))
    broken = Image(layers, image.config, image.manifest)
    with pytest.raises(Changed):
        contract.put(DockerLoad(url, "tests/image:one"), broken)
    assert everything(client) == before


def test_what_the_engine_says_against_an_image_is_said(client: DockerClient, url: str, tmp_path: Path) -> None:
    image = contract.image(tmp_path)
    config = json.loads(image.config)
    config["rootfs"]["diff_ids"][-1] = "sha256:" + "0" * 64
    lying = Image(image.layers, json.dumps(config).encode(), image.manifest)
    with pytest.raises(LoadFailed, match=r"docker: the image was not taken: .*(invalid diffID|not there)"):
        contract.put(DockerLoad(url, "tests/image:one"), lying)
    assert not client.images.list(name="tests/image")


@contextlib.contextmanager
def engine(disk: Path, folder: Path) -> Iterator[str]:
    """An engine whose images are on a disk of their own. `folder`: with a short path."""
    socket = folder / "d.sock"
    # In a chroot `/` is no mount, and the engine cannot unpack anything there: give it a root that is one, as
    # ci/services.sh does.
    (folder / "root").mkdir()
    rooted = """
    nsenter --mount=/proc/self/ns/mnt mount --make-rslave / && mount --rbind / "$0" && cd / && exec chroot "$0" "$@"
    """
    argv = [
        "unshare", "--mount", "--propagation", "unchanged", "sh", "-c", rooted, str(folder / "root"), "dockerd",
        "--data-root", str(disk / "data"), "--exec-root", str(folder / "exec"), "-H", f"unix://{socket}",
        "--pidfile", str(folder / "pid"), "--bridge", "none", "--iptables=false", "--ip6tables=false",
        "--config-file", str(folder / "daemon.json"), "--log-level", "error",
    ]  # fmt: skip
    (folder / "daemon.json").write_text("{}")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while docker_engine.ask_at(f"unix://{socket}").problem and time.monotonic() < deadline:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"unix://{socket}"
    finally:
        process.send_signal(signal.SIGTERM)  # each `exec` has become the next program
        process.wait(30)


def test_a_full_disk_of_the_engine_is_said_and_nothing_is_half_there(
    tmp_path: Path, mounted: Callable[[str, int], Path]
) -> None:
    system.require(os.geteuid() == 0 and shutil.which("dockerd"), "no dockerd, or not root")
    disk = mounted("tmpfs", 60)
    image = contract.image(tmp_path, large=40 * MB)
    folder = Path("/tmp") / f"jx-{os.getpid()}"
    folder.mkdir()
    try:
        with engine(disk, folder) as url:
            sink = DockerLoad(url, "tests/image:one")
            with pytest.raises(SinkFull, match="docker: the disk is full: no space left on device"):
                contract.put(sink, image)
            assert not sink.has(image)
            with docker_engine.at(url) as client:
                assert client.images.list(all=True) == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_an_engine_that_is_down_or_keeps_us_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    with (
        pytest.raises(EngineUnavailable, match="no docker engine answers at unix://") as caught,
        docker_engine.at(docker_engine.address()),
    ):
        pass
    assert "--to registry://HOST/NAME" in caught.value.hints[1]
    assert "does not let you in" in EngineUnavailable(docker_engine.PERMISSION).message


def test_an_engine_behind_ssh_is_reached_with_the_settings_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, client: DockerClient, url: str
) -> None:
    """ssh takes its home from the system, so a program of that name hands it the tests' settings."""
    real, program = shutil.which("ssh"), tmp_path / "bin" / "ssh"
    system.require(real, "no ssh: apt-get install openssh-client")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {real} -F {system.ssh_config()} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    socket = url.removeprefix("unix://")
    monkeypatch.setenv("DOCKER_HOST", f"ssh://gpu-1{socket}")
    image = contract.image(tmp_path)
    with docker_engine.reachable() as tunnel:
        assert tunnel != url
        contract.put(DockerLoad(tunnel, "tests/image:one"), image)
    assert client.images.get("tests/image:one").id in names(image)
    monkeypatch.setenv("DOCKER_HOST", "ssh://nobody@nowhere.invalid")
    refused = pytest.raises(EngineUnavailable, match=r"the docker engine at ssh://.*: .*nowhere\.invalid")
    with refused, docker_engine.reachable():
        pass
