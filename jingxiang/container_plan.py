"""Containers of a deployment as the docker engine's API takes them, and the configuration of the proxy in front.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
https://caddyserver.com/docs/caddyfile
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jingxiang.deploy_plan import Front
from jingxiang.image_definition import Definition

NETWORK = "jingxiang"
REPOSITORY = "jingxiang"  # what images of deployments are called on a host
FAILED = "jingxiang-failed"  # the container of the last version that did not get ready
ROLE, VERSION, IMAGE, SETTINGS, PORT = (
    f"jingxiang.{name}" for name in ("role", "version", "image", "settings", "port")
)
APP_ROLE, PROXY_ROLE = "app", "proxy"
OUTPUTS, SECRETS, PROXY_DATA = "jingxiang-outputs", "jingxiang-secrets", "jingxiang-proxy"
SECRETS_FOLDER, PASSWORDS = "/secrets", "passwords"
CONFIG = "Caddyfile"
INSIDE_HTTP, INSIDE_TLS = 8080, 8443  # whoever is not root may listen there
INSIDE_SIGN = 8079  # says which version is led to, and nothing else
DRAIN_S = 600  # as the app has it; the engine waits a little longer before it kills
GRACE_S = 30
SERVES = "Jingxiang-Version"  # a header of each answer: which version the proxy leads to
FIRST = re.compile(r"# serving (\S*)")
LOG = {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "5"}}
# Both languages: whoever sees it may be anybody.
MAINTENANCE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>jingxiang</title><meta http-equiv="refresh" content="2">
<style>body{font:16px system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
p{margin:20vh auto;max-width:30em;text-align:center}</style>
<p>正在更新，页面会自动恢复，排队的任务不会丢失。<br>
Being updated: this page comes back by itself, and no waiting job is lost.</p></html>"""
BUSY = '{"error": "being updated: try again in a moment / 正在更新：请稍后再试", "hints": []}'


@dataclass(frozen=True)
class Settings:
    """How versions are run, apart from their image."""

    gpus: bool
    passwords: bool

    @property
    def text(self) -> str:
        """For a label."""
        return ",".join(name for name in ("gpus", "passwords") if getattr(self, name)) or "none"

    @classmethod
    def of(cls, text: str) -> Settings:
        names = text.split(",")
        return cls("gpus" in names, "passwords" in names)


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
    ports[f"{INSIDE_SIGN}/tcp"] = [{"HostIp": "127.0.0.1", "HostPort": ""}]
    folder = definition.outputs
    return {
        "Image": image_id,
        "Entrypoint": [str(definition.prefix / "bin" / "caddy")],
        "Cmd": ["run", "--config", f"{folder}/{CONFIG}", "--adapter", "caddyfile"],
        "Env": [f"XDG_DATA_HOME={folder}", "XDG_CONFIG_HOME=/tmp"],
        "Labels": {ROLE: PROXY_ROLE, SETTINGS: front.text, PORT: str(front.port)},
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
        return [(INSIDE_HTTP, "127.0.0.1", front.port)]
    everywhere = "0.0.0.0"  # noqa: S104 (asked for, and with a password)
    found = [(INSIDE_TLS, everywhere, front.port)]
    return [*found, (INSIDE_HTTP, everywhere, 80)] if front.domain and front.port == 443 else found


def caddyfile(name: str, upstream: str, front: Front, host: str) -> str:
    """Lead to one version, or (no `name`) to the page that says to wait. `upstream`: HOST:PORT; `host`: what the page
    is called without a domain."""
    site = front.domain or (f"[{host}]" if ":" in host else host)
    options = ["admin off", "persist_config off", f"http_port {INSIDE_HTTP}", f"https_port {INSIDE_TLS}"]
    if front.public:
        options += ["skip_install_trust", f"default_sni {front.domain or host}"]
        options += [] if len(published(front)) > 1 else ["auto_https disable_redirects"]
    else:
        options += ["auto_https off"]
    begin = [f"https://{site} {{"] if front.public else [f"http://:{INSIDE_HTTP} {{"]
    if front.public and not is_domain(front.domain):
        begin.append("\ttls internal")
    if not front.public:
        # A name that only leads to loopback since a page was loaded: a browser would take us for that page's site.
        begin += ["\t@foreign not host localhost 127.0.0.1 [::1]", "\trespond @foreign 421"]
    lines = [
        f"# serving {name}",
        "{",
        *(f"\t{line}" for line in options),
        "\tservers {\n\t\tprotocols h1 h2\n\t}",
        "\tlog {\n\t\tlevel WARN\n\t}",
        "}",
        f"http://:{INSIDE_SIGN} {{",
        f'\theader {SERVES} "{name}"',
        "\trespond 204",
        "}",
        *begin,
        f'\theader {SERVES} "{name}"',
        *([_reverse_proxy(upstream)] if name else ["\terror 503"]),
        _waiting(),
        "}",
    ]
    return "\n".join(lines) + "\n"


def serving(config: str) -> str:
    """Which version a configuration leads to; empty if none."""
    found = FIRST.match(config)
    return found[1] if found else ""


def is_domain(name: str) -> bool:
    """Whether a public authority would certify it: no address, and with a dot."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." in name
    return False


def _reverse_proxy(upstream: str) -> str:
    """Events are handed on at once; a moment without an answer is waited for."""
    return (
        f"\treverse_proxy {upstream} {{\n\t\tflush_interval -1\n\t\tlb_try_duration 2s\n"
        "\t\ttransport http {\n\t\t\tdial_timeout 2s\n\t\t}\n\t}"
    )


def _waiting() -> str:
    """What is said while no version answers: to programs in their own way."""
    return (
        "\thandle_errors 502 503 504 {\n"
        "\t\theader Retry-After 2\n\t\theader Cache-Control no-store\n"
        "\t\t@program path /api/* /metrics /healthz /readyz\n"
        "\t\thandle @program {\n\t\t\theader Content-Type application/json\n"
        f"\t\t\trespond `{BUSY}` 503\n\t\t}}\n"
        '\t\thandle {\n\t\t\theader Content-Type "text/html; charset=utf-8"\n'
        f"\t\t\trespond `{MAINTENANCE}` 503\n\t\t}}\n\t}}"
    )


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
