"""The configuration of Caddy, which stands in front of the versions of the app on a host.

https://caddyserver.com/docs/caddyfile
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from jingxiang.deploy_plan import Front

SERVES = "Jingxiang-Version"  # a header of each answer: which version the proxy leads to
FIRST = re.compile(r"# serving (\S+)")
HTTP, HTTPS = 80, 443
# Both languages: whoever sees it may be anybody.
MAINTENANCE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>jingxiang</title><meta http-equiv="refresh" content="2">
<style>body{font:16px system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
p{margin:20vh auto;max-width:30em;text-align:center}</style>
<p>正在更新，页面会自动恢复，排队的任务不会丢失。<br>
Being updated: this page comes back by itself, and no waiting job is lost.</p></html>"""
BUSY = '{"error": "being updated: try again in a moment / 正在更新：请稍后再试", "hints": []}'


@dataclass(frozen=True)
class Doors:
    """Where the proxy itself listens: ports; `sign`: where it says which version it leads to, and nothing else, as
    `:PORT` or the path of a socket; `loopback`: nobody else comes near it, so it sees to that by itself."""

    http: int
    tls: int
    sign: str
    loopback: bool = False


def caddyfile(name: str, upstream: str, front: Front, host: str, doors: Doors) -> str:
    """Lead to one version. `upstream`: HOST:PORT; `host`: what the page is called without a domain."""
    site = front.domain or (f"[{host}]" if ":" in host else host)
    options = ["admin off", "persist_config off", f"http_port {doors.http}"]
    if front.public:
        options += [f"https_port {doors.tls}", "skip_install_trust", f"default_sni {front.domain or host}"]
        options += [] if leads_on(front) else ["auto_https disable_redirects"]
        begin = [f"https://{site} {{", *([] if is_domain(front.domain) else ["\ttls internal"])]
    else:
        options += ["auto_https off"]
        # A name that only leads to loopback since a page was loaded: a browser would take us for that page's site.
        begin = [
            f"http://:{doors.http} {{", *(["\tbind 127.0.0.1"] if doors.loopback else []),
            "\t@foreign not host localhost 127.0.0.1 [::1]", "\trespond @foreign 421",
        ]  # fmt: skip
    is_port = doors.sign.startswith(":")
    lines = [
        f"# serving {name}",
        "{",
        *(f"\t{line}" for line in options),
        "\tservers {\n\t\tprotocols h1 h2\n\t}",
        "\tlog {\n\t\tlevel WARN\n\t}",
        "}",
        f"http://{doors.sign} {{" if is_port else f"http://localhost {{\n\tbind unix/{doors.sign}",
        f'\theader {SERVES} "{name}"',
        "\trespond 204",
        "}",
        *begin,
        f'\theader {SERVES} "{name}"',
        _reverse_proxy(upstream),
        _waiting(),
        "}",
    ]
    return "\n".join(lines) + "\n"


def serving(config: str) -> str:
    """Which version a configuration leads to; empty if none."""
    found = FIRST.match(config)
    return found[1] if found else ""


def leads_on(front: Front) -> bool:
    """Whether port 80 is used, too: it leads on to 443, and proves to an authority whose domain it is."""
    return is_domain(front.domain) and front.port == HTTPS


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
