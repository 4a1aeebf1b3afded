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

from jingxiang.sinks import docker_engine
from tests.peers import system

pytestmark = pytest.mark.e2e

Answer = tuple[int, dict[str, str], bytes]


def ask_registry(method: str, url: str, body: bytes | None = None) -> Answer:
    """Status, headers (names in lower case) and body; loopback is never behind a proxy."""
    request = Request(url, data=body, method=method, headers={"Content-Type": "application/octet-stream"})
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


def test_the_registry_takes_a_blob_and_gives_it_back() -> None:
    base = f"http://{system.registry()}/v2/"
    status, _, body = ask_registry("GET", base)
    assert (status, json.loads(body)) == (200, {})

    blob = os.urandom(100_000)
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    status, headers, _ = ask_registry("POST", f"{base}services/blobs/uploads/", b"")
    assert status == 202
    location = urljoin(base, headers["location"])
    separator = "&" if "?" in location else "?"
    status, headers, _ = ask_registry("PUT", f"{location}{separator}digest={digest}", blob)
    assert (status, headers["docker-content-digest"]) == (201, digest)

    status, _, body = ask_registry("GET", f"{base}services/blobs/{digest}")
    assert status == 200
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == digest


def test_ssh_runs_a_command_without_asking_anything() -> None:
    argv = ["ssh", "-F", str(system.ssh_config()), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "gpu-1"]
    done = subprocess.run(
        [*argv, "echo ok; echo $DOCKER_HOST"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["ok", system.docker_host()]), done.stderr
