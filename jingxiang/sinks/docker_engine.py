"""The docker engine of this machine, through its SDK."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """Its version; or `problem`, why it does not answer."""

    version: str
    problem: str = ""


def ask(timeout_s: int = 5) -> Engine:
    """Ask the engine that DOCKER_HOST names, or the local one."""
    from docker import DockerClient
    from docker.errors import DockerException

    try:
        client = DockerClient.from_env(timeout=timeout_s)
        try:
            return Engine(str(client.version()["Version"]))
        finally:
            client.close()
    except DockerException as error:
        text = str(error)
        if "PermissionError" in text:
            return Engine("", "permission")
        return Engine("", "absent" if "FileNotFoundError" in text or "ConnectionRefused" in text else text)
