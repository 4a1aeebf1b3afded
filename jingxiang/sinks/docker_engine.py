"""The docker engine of this machine, through its SDK."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

LOCAL = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class Engine:
    """Its version; or `problem`, why it does not answer: `absent`, `permission`, or the SDK's own words."""

    version: str
    problem: str = ""


def ask(timeout_s: int = 5) -> Engine:
    """Ask the engine that DOCKER_HOST names, or the local one."""
    if problem := _unreachable(os.environ.get("DOCKER_HOST") or LOCAL):
        return Engine("", problem)
    from docker import DockerClient
    from docker.errors import DockerException

    try:
        client = DockerClient.from_env(timeout=timeout_s)
        try:
            return Engine(str(client.version()["Version"]))
        finally:
            client.close()
    except DockerException as error:
        return Engine("", str(error))


def _unreachable(address: str) -> str:
    """Why a local socket cannot be connected to; empty if it can, or is no local one.

    Asked before the SDK, which hides the cause in its text and leaves its socket open when it fails.
    """
    scheme, _, path = address.partition("://")
    if scheme != "unix":
        return ""
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(path)
        except PermissionError:
            return "permission"
        except OSError:
            return "absent"
    return ""
