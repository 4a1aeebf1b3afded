"""The services of `ci/services.sh` are what tests believe that they are: real, and their own."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import socket
import subprocess
import warnings
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from docker import DockerClient

from jingxiang.commands import bases
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.session import Session
from jingxiang.mirrors import Source
from jingxiang.places import Places
from jingxiang.sinks import docker_engine
from jingxiang.store import Store
from tests.peers import faults, registry, system
from tests.peers.mirror import Mirror, serving

pytestmark = pytest.mark.e2e

Answer = tuple[int, dict[str, str], bytes]


def ask_registry(method: str, url: str, body: bytes | None = None, kind: str = "application/octet-stream") -> Answer:
    """Status, headers (names in lower case) and body; loopback is never behind a proxy."""
    request = Request(url, data=body, method=method, headers={"Content-Type": kind})
    with build_opener(ProxyHandler({})).open(request, timeout=30) as response:
        return response.status, {name.lower(): value for name, value in response.headers.items()}, response.read()


def test_the_engine_gives_its_version_and_the_toolkit_sees_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    address = system.docker_host()
    client = DockerClient(base_url=address)
    try:
        version = client.version()["Version"]
        root = client.info()["DockerRootDir"]
    finally:
        client.close()
    assert version[0].isdigit()
    assert Path(root).is_relative_to(Path(address.removeprefix("unix://")).parent), "an engine of its own"
    monkeypatch.setenv("DOCKER_HOST", address)
    assert docker_engine.ask() == docker_engine.Engine(version)


def test_an_engine_that_has_gone_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind("closed.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/closed.sock")
    with warnings.catch_warnings():
        # docker-py 7.2 forgets a socket whose connect failed; it must not be found while another test runs.
        warnings.simplefilter("ignore", ResourceWarning)
        assert docker_engine.ask() == docker_engine.Engine("", "absent")
        gc.collect()


def push(repository: str, blob: bytes) -> str:
    """Put a blob into the registry; returns its SHA-256."""
    base = f"http://{system.registry()}/v2/"
    digest = hashlib.sha256(blob).hexdigest()
    status, headers, _ = ask_registry("POST", f"{base}{repository}/blobs/uploads/", b"")
    assert status == 202
    location = urljoin(base, headers["location"])
    separator = "&" if "?" in location else "?"
    status, headers, _ = ask_registry("PUT", f"{location}{separator}digest=sha256:{digest}", blob)
    assert (status, headers["docker-content-digest"]) == (201, f"sha256:{digest}")
    return digest


def test_the_registry_takes_a_blob_and_gives_it_back() -> None:
    base = f"http://{system.registry()}/v2/"
    status, _, body = ask_registry("GET", base)
    assert (status, json.loads(body)) == (200, {})
    digest = push("services", os.urandom(100_000))
    status, _, body = ask_registry("GET", f"{base}services/blobs/sha256:{digest}")
    assert status == 200
    assert hashlib.sha256(body).hexdigest() == digest


def test_layers_come_from_the_registry_when_a_mirror_of_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system.without_proxy(monkeypatch)
    blobs = [os.urandom(size) for size in (1000, 50_000, 9_000_000)]
    layers = [
        Artifact("oci", f"layer {number}", (push("library/base", blob),), len(blob), "docker.io/library/base")
        for number, blob in enumerate(blobs)
    ]
    store = Store(tmp_path / "store")
    with serving() as bad:
        for layer, blob in zip(layers, blobs, strict=True):
            path = f"/v2/library/base/blobs/sha256:{layer.key}"
            bad.files[path], bad.answers[path] = blob, faults.always(bad, faults.truncated)
        urls = {"bad": bad.url, "real": f"http://{system.registry()}"}
        sources = [Source(name, name, "oci", "oci", url) for name, url in urls.items()]
        with Session(store, {"oci": sources}) as session:
            report = session.fetch(layers)
    assert [store.blob(layer.key).read_bytes() for layer in layers] == blobs
    assert {each.mirror for each in report.mirrors if each.failures} == {"bad"}


def test_an_image_of_the_registry_is_locked_and_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Index, manifest and files as a real registry has them; a mirror before it is dead."""
    system.without_proxy(monkeypatch)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    base, repository, layers = (
        f"http://{system.registry()}/v2/",
        "library/locked",
        [os.urandom(3_000_000), os.urandom(9)],
    )
    peer = Mirror()
    files = registry.add(peer, repository, "1.0", *layers)
    *blobs, manifest = files
    assert [f"sha256:{push(repository, files[digest])}" for digest in blobs] == blobs
    named = {path.rpartition("/")[2]: body for path, body in peer.files.items() if "/manifests/" in path}
    for tag, body in sorted(named.items(), key=lambda each: each[0] == "1.0"):  # what it names has to be there first
        kind = json.loads(body)["mediaType"]
        status, _, answer = ask_registry("PUT", f"{base}{repository}/manifests/{tag}", body, kind)
        assert status == 201, answer
    places = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    places.root.mkdir()
    urls = {"dead": f"http://127.0.0.1:{system.free_port()}", "real": f"http://{system.registry()}"}
    (places.root / "mirrors.toml").write_text(
        "".join(f'[{name}]\noci = {{ layout = "oci", url = "{url}" }}\n' for name, url in urls.items())
    )
    bases.relock(places, ["locked:1.0"], mirror="dead")
    (image,) = bases.get(places, mirror="dead")
    assert f"sha256:{image.manifest.sha256}" == manifest
    store = Store(places.store)
    assert {f"sha256:{each.sha256}": store.blob(each.sha256).read_bytes() for each in store.blobs()} == files


def test_ssh_runs_a_command_without_asking_anything() -> None:
    argv = ["ssh", "-F", str(system.ssh_config()), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "gpu-1"]
    done = subprocess.run(
        [*argv, "echo ok; echo $DOCKER_HOST"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["ok", system.docker_host()]), done.stderr
