"""Containers of a deployment as the docker engine's API takes them.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jingxiang import proxy_plan
from jingxiang.deploy_plan import Front
from jingxiang.image_definition import Definition
from jingxiang.proxy_plan import Doors

NETWORK = "jingxiang"
REPOSITORY = "jingxiang"  # what images of deployments are called on a host
FAILED = "jingxiang-failed"  # the container of the last version that did not get ready
ROLE, VERSION, IMAGE, SETTINGS, OWNER = (
    f"jingxiang.{name}" for name in ("role", "version", "image", "settings", "owner")
)
APP_ROLE, PROXY_ROLE, LOCK_ROLE = "app", "proxy", "lock"
OUTPUTS, SECRETS, PROXY_DATA = "jingxiang-outputs", "jingxiang-secrets", "jingxiang-proxy"
# A volume in which nothing is: the engine makes one of a name once, and keeps the labels of whoever came first. It
# needs no image, and all who may use the engine see it.
LOCK = "jingxiang-lock"
RELEASES = "releases.json"  # beside the configuration of the proxy
SECRETS_FOLDER, PASSWORDS = "/secrets", "passwords"
CONFIG = "Caddyfile"
SIGN = 8079
DOORS = Doors(8080, 8443, f":{SIGN}")  # whoever is not root may listen there
DRAIN_S = 600  # as the app has it; the engine waits a little longer before it kills
GRACE_S = 30
LOG = {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "5"}}

NAMES = ("gpus", "passwords", "label")


@dataclass(frozen=True)
class Settings:
    """How versions are run, apart from their image. `label`: videos carry a visible mark that they are generated; in
    containers, which cannot tell who reaches them, they always do."""

    gpus: bool
    passwords: bool
    label: bool = False

    @property
    def text(self) -> str:
        """For a label."""
        return ",".join(name for name in NAMES if getattr(self, name)) or "none"

    @classmethod
    def of(cls, text: str) -> Settings:
        names = text.split(",")
        return cls(*(name in names for name in NAMES))


def container(version: str) -> str:
    return f"jingxiang-{version}"


def version(image_id: str, taken: Collection[str]) -> str:
    """The beginning of the image's digest; with a number when that runs in another way already."""
    name = image_id.removeprefix("sha256:")[:8]
    number = 2
    found = name
    while found in taken:
        found = f"{name}-{number}"
        number += 1
    return found


def app(name: str, image_id: str, settings: Settings, definition: Definition) -> dict[str, Any]:
    """One version of the app. Only this host reaches its port, and the proxy."""
    login = f"JINGXIANG_PASSWORD_FILE={SECRETS_FOLDER}/{PASSWORDS}" if settings.passwords else "JINGXIANG_NO_PASSWORD=1"
    inside = f"{definition.port}/tcp"
    return {
        "Image": image_id,
        # The proxy says who asks, and how; nobody else reaches the app who could claim that.
        "Env": [login, "FORWARDED_ALLOW_IPS=*", f"JINGXIANG_DRAIN_S={DRAIN_S}"],
        "Labels": {ROLE: APP_ROLE, VERSION: name, IMAGE: image_id, SETTINGS: settings.text},
        "StopTimeout": DRAIN_S + GRACE_S,
        "HostConfig": {
            **_guarded({OUTPUTS: definition.outputs, SECRETS: SECRETS_FOLDER}),
            "PortBindings": {inside: [{"HostIp": "127.0.0.1", "HostPort": ""}]},
            "DeviceRequests": [GPUS] if settings.gpus else [],
            "RestartPolicy": {"Name": "no"},  # until it has shown that it gets ready
        },
    }


GPUS = {"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}


def gpu_probe(image_id: str) -> dict[str, Any]:
    """What shows that a container gets the GPUs."""
    return {
        "Image": image_id,
        "Entrypoint": ["nvidia-smi"],
        "Cmd": ["-L"],
        "HostConfig": {"NetworkMode": "none", "DeviceRequests": [GPUS]},
    }


def proxy(image_id: str, front: Front, definition: Definition) -> dict[str, Any]:
    """Caddy out of the image of the app: a host need not get at any other image."""
    ports = {
        f"{inside}/tcp": [{"HostIp": address, "HostPort": str(outside)}]
        for inside, address, outside in published(front)
    }
    ports[f"{SIGN}/tcp"] = [{"HostIp": "127.0.0.1", "HostPort": ""}]
    folder = definition.outputs
    return {
        "Image": image_id,
        "Entrypoint": [str(definition.prefix / "bin" / "caddy")],
        "Cmd": ["run", "--config", f"{folder}/{CONFIG}", "--adapter", "caddyfile"],
        "Env": [f"XDG_DATA_HOME={folder}", "XDG_CONFIG_HOME=/tmp"],
        "Labels": {ROLE: PROXY_ROLE, SETTINGS: front.text},
        "ExposedPorts": {name: {} for name in ports},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            # A new volume takes over whom the folder belongs to, and this is the one that is not root's.
            **_guarded({PROXY_DATA: folder}),
            "PortBindings": ports,
            # Always: the engine takes the signal to read the configuration again for one to stop, and remembers it.
            "RestartPolicy": {"Name": "always"},
        },
    }


def published(front: Front) -> list[tuple[int, str, int]]:
    """Port of the proxy, address and port of the host. With a domain, port 80 leads on, and proves whose it is."""
    if not front.public:
        return [(DOORS.http, "127.0.0.1", front.port)]
    everywhere = "0.0.0.0"  # noqa: S104 (asked for, and with a password)
    found = [(DOORS.tls, everywhere, front.port)]
    return [*found, (DOORS.http, everywhere, proxy_plan.HTTP)] if proxy_plan.leads_on(front) else found


def _guarded(volumes: Mapping[str, str]) -> dict[str, Any]:
    """As little as is needed: nothing can be written but the volumes and /tmp, and no right is gained."""
    return {
        "NetworkMode": NETWORK,
        "Mounts": [{"Type": "volume", "Source": name, "Target": folder} for name, folder in volumes.items()],
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": ""},  # noqa: S108 (in the container)
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": LOG,
    }
