"""Docker engines, through their SDK: this machine's own, or the one that DOCKER_HOST names."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jingxiang import process
from jingxiang.errors import JingxiangError
from jingxiang.language import tr

if TYPE_CHECKING:
    from docker import DockerClient

LOCAL = "unix:///var/run/docker.sock"
SOCKET = "/var/run/docker.sock"
# Taking in a layer of ten gigabytes is silent, and may take minutes on a slow disk.
SILENCE_S = 3600
TUNNEL_S = 20.0
ABSENT, PERMISSION = "absent", "permission"


@dataclass(frozen=True)
class Engine:
    """Its version; or `problem`, why it does not answer: `absent`, `permission`, or the SDK's own words."""

    version: str
    problem: str = ""


class EngineUnavailable(JingxiangError):
    """No engine answers, or it does not let us in."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        host = address()
        texts = {
            ABSENT: (tr("no docker engine answers at {host}", host=host),
                     (tr("start it (systemctl start docker) or install it (apt-get install docker.io)"),
                      tr("an image for a registry or a folder needs none: --to registry://HOST/NAME or --to oci:DIR"))),
            PERMISSION: (tr("the docker engine at {host} does not let you in", host=host),
                         (tr("sudo usermod -aG docker $USER, then log in again"),)),
        }  # fmt: skip
        text, hints = texts.get(problem, (tr("the docker engine at {host}: {problem}", host=host, problem=problem), ()))
        super().__init__(text, hints=hints)


def address() -> str:
    return os.environ.get("DOCKER_HOST") or LOCAL


def ask(timeout_s: int = 5) -> Engine:
    """Ask the engine that DOCKER_HOST names, or the local one."""
    try:
        with reachable() as url:
            return ask_at(url, timeout_s)
    except EngineUnavailable as error:
        return Engine("", error.problem)


def ask_at(url: str, timeout_s: int = 5) -> Engine:
    """Ask the engine at an address of `reachable`."""
    try:
        with at(url, timeout_s=timeout_s) as engine:
            return Engine(str(engine.version()["Version"]))
    except EngineUnavailable as error:
        return Engine("", error.problem)


@contextlib.contextmanager
def at(url: str, *, timeout_s: int = SILENCE_S) -> Iterator[DockerClient]:
    """A client of the engine at an address of `reachable`: for one thread. Raises `EngineUnavailable`."""
    if problem := _unreachable(url):
        raise EngineUnavailable(problem)
    from docker import DockerClient
    from docker.errors import DockerException

    try:
        found = DockerClient.from_env(timeout=timeout_s, environment={**os.environ, "DOCKER_HOST": url})
    except DockerException as error:
        raise EngineUnavailable(str(error)) from error
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def reachable() -> Iterator[str]:
    """The address of the engine as the SDK understands it: an engine behind ssh comes through a tunnel.

    The SDK's own ssh needs another library, and knows nothing of the user's settings for ssh. Raises
    `EngineUnavailable`.
    """
    host = address()
    if not host.startswith("ssh://"):
        yield host
        return
    parts = urllib.parse.urlsplit(host)
    with tempfile.TemporaryDirectory(prefix="jingxiang-docker-") as scratch:
        near = Path(scratch) / "docker.sock"
        argv = [
            "ssh", "-nNT", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15",
            *(["-p", str(parts.port)] if parts.port else []), *(["-l", parts.username] if parts.username else []),
            "-L", f"{near}:{parts.path if len(parts.path) > 1 else SOCKET}", "--", parts.hostname or "",
        ]  # fmt: skip
        with process.beside(argv, until=near.exists, timeout_s=TUNNEL_S) as problem:
            if problem:
                raise EngineUnavailable(problem)
            yield f"unix://{near}"


def _unreachable(url: str) -> str:
    """Why a local socket cannot be connected to; empty if it can, or is no local one.

    Asked before the SDK, which hides the cause in its text and leaves its socket open when it fails.
    """
    scheme, _, path = url.partition("://")
    if scheme != "unix":
        return ""
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(path)
        except PermissionError:
            return PERMISSION
        except OSError:
            return ABSENT
    return ""
