"""jingxiang.sinks.docker_engine without an engine; with one: tests/e2e/test_docker_sink.py"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from jingxiang.sinks import docker_engine
from jingxiang.sinks.docker_engine import Engine, EngineUnavailable

NOBODY = 65534


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An engine's socket that is for others."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind("docker.sock")
        engine.listen()
        Path("docker.sock").chmod(0)
        monkeypatch.setenv("DOCKER_HOST", "unix://docker.sock")
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        try:
            yield "unix://docker.sock"
        finally:
            if os.getuid() == 0:
                os.seteuid(0)


def test_an_engine_that_keeps_us_out_is_said_with_what_to_do(closed: str) -> None:
    assert docker_engine.ask() == Engine("", docker_engine.PERMISSION)
    with pytest.raises(EngineUnavailable) as caught, docker_engine.at(docker_engine.address()):
        pass
    assert caught.value.message == f"the docker engine at {closed} does not let you in"
    assert caught.value.hints == ("sudo usermod -aG docker $USER, then log in again",)


def test_an_engine_that_is_not_there_is_said_with_what_needs_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert docker_engine.ask() == Engine("", docker_engine.ABSENT)
    with pytest.raises(EngineUnavailable) as caught, docker_engine.at(docker_engine.address()):
        pass
    assert caught.value.message == f"no docker engine answers at unix://{tmp_path}/none.sock"
    assert "--to registry://HOST/NAME or --to oci:DIR" in caught.value.hints[1]


def test_without_a_variable_it_is_the_engine_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "")
    assert docker_engine.address() == "unix:///var/run/docker.sock"


def test_an_address_that_makes_no_sense_is_the_sdks_to_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "carrier-pigeon://roof")
    with (
        pytest.raises(EngineUnavailable, match="the docker engine at carrier-pigeon://roof: "),
        docker_engine.at(docker_engine.address()),
    ):
        pass
