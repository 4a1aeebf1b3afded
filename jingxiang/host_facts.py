"""What a host has: one script that looks, and its answers.

The script runs on the host as whoever logs in there, needs nothing but a POSIX shell, and changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jingxiang.gpu import Gpu, Gpus

SECTION = "\x1e"  # ASCII record separator: no output holds one
PROXY = "jingxiang-proxy"

# All of them begin so.
BEGIN = r"""
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
say() { printf '\036%s\n' "$1"; }
have() { command -v "$1" >/dev/null 2>&1; }
"""
# Where things are there: enough to look at what was deployed.
PLACES = r"""
say home; echo "$HOME"
say endpoint; docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null ||
  echo "${DOCKER_HOST:-unix:///var/run/docker.sock}"
"""
# How much the cards have free now.
CARDS = r"""
say gpu; if have nvidia-smi; then nvidia-smi \
  --query-gpu=name,driver_version,memory.total,memory.free,compute_cap --format=csv,noheader,nounits 2>&1
else echo absent; fi
"""
# $1: the ports, with blanks between them; $2: HOST[:PORT] of a registry, or nothing.
ALL = r"""
say system; (. /etc/os-release 2>/dev/null; echo "${PRETTY_NAME:-$(uname -sr)}")
say arch; uname -m
say clock; date +%s
say docker; if have docker; then docker version --format '{{json .}}' 2>&1; else echo absent; fi
say info; info=$(docker info --format '{{json .}}' 2>/dev/null); echo "$info"
say ours; docker ps --all --no-trunc --filter label=jingxiang.role --format '{{json .}}' 2>/dev/null
say users; have nvidia-smi && nvidia-smi --query-compute-apps=pid,used_memory,process_name --format=csv,noheader,nounits
image=$(docker images --quiet --filter label=jingxiang.profile 2>/dev/null | head -n 1)
say image; echo "$image"
say probe; if [ -n "$image" ] && have nvidia-smi; then
  docker run --rm --network none --gpus all --entrypoint nvidia-smi "$image" -L 2>&1; echo "rc $?"
fi
root=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)
say disk; df -Pk "${root:-/}" 2>/dev/null | tail -n 1
say rotates; device=$(df -P "${root:-/}" 2>/dev/null | tail -n 1 | cut -d' ' -f1); lsblk -dno ROTA "$device" 2>/dev/null
say ports; for port in $1; do have ss && ss -ltnpH "sport = :$port" 2>/dev/null | head -n 1; done
say memory; sed -n 's/^MemAvailable: *//p' /proc/meminfo
say python; python3 -c 'import ensurepip, venv, sys; print("%d.%d venv" % sys.version_info[:2])' 2>/dev/null ||
  python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
say homedisk; df -Pk "$HOME" 2>/dev/null | tail -n 1
say front; cat ~/.jingxiang/app/proxy/front 2>/dev/null
say bundle; ls ~/.jingxiang/app/bundle/bundle.json 2>/dev/null
say outbound; if [ -n "$2" ]; then
  if have curl; then curl -sS -o /dev/null -m 4 -w '%{http_code}' "https://$2/v2/" 2>&1 ||
    curl -sS -o /dev/null -m 4 -w '%{http_code}' "http://$2/v2/" 2>&1
  else echo unknown; fi
fi
"""
END = ":\n"  # what is absent is no failure
SCRIPT, SHORT, FREE = BEGIN + PLACES + CARDS + ALL + END, BEGIN + PLACES + END, BEGIN + CARDS + END


@dataclass(frozen=True)
class Facts:
    """What the script found. `ours`: containers of earlier deployments, by name; `port_owners`: who listens on those
    that were asked for, where somebody does; `skew_s`: how far the clock is ahead of ours; `rotates`: None where the
    disk does not say; `front`: of a deployment without docker, see `Front.text`."""

    system: str
    arch: str
    skew_s: float
    home: str
    endpoint: str
    version: str
    api: tuple[int, ...]
    docker_problem: str
    info: Mapping[str, Any]
    ours: Mapping[str, Mapping[str, str]]
    gpus: Gpus
    gpu_users: tuple[str, ...]
    has_image: bool
    probe: str | None
    free_bytes: int
    rotates: bool | None
    port_owners: Mapping[int, str]
    memory_bytes: int
    outbound: str
    python: str
    home_free_bytes: int
    has_bundle: bool
    front: str

    @property
    def is_serving(self) -> bool:
        runs = any(each["state"] == "running" for name, each in self.ours.items() if name != PROXY)
        return runs or bool(self.front)


def facts(output: str, *, now_s: float) -> Facts:
    """What the answers of the script say. `now_s`: our own clock when it ran."""
    sections = dict(_sections(output))
    docker = sections.get("docker", "")
    found, problem = _docker(docker)
    server = found.get("Server") or {}
    listed = (json.loads(line) for line in sections.get("ours", "").splitlines() if line.startswith("{"))
    memory = re.match(r"(\d+) kB", sections.get("memory", ""))
    clock = sections.get("clock", "")
    return Facts(
        system=sections.get("system", ""),
        arch=sections.get("arch", ""),
        skew_s=float(clock) - now_s if clock.isdigit() else 0.0,
        home=sections.get("home", ""),
        endpoint=sections.get("endpoint", ""),
        version=str(server.get("Version", "")),
        api=tuple(int(part) for part in str(server.get("ApiVersion", "0")).split(".") if part.isdigit()),
        docker_problem=problem,
        info=_json(sections.get("info", "")),
        ours={each["Names"]: {"state": each["State"], "ports": each.get("Ports", "")} for each in listed},
        gpus=cards(output),
        gpu_users=tuple(line.strip() for line in sections.get("users", "").splitlines() if line[:1].isdigit()),
        has_image=bool(sections.get("image")),
        probe=sections.get("probe") or None,
        free_bytes=_free_of(sections.get("disk", "")),
        rotates={"0": False, "1": True}.get(sections.get("rotates", "").strip()),
        port_owners=dict(_owners(sections.get("ports", ""))),
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
        outbound=sections.get("outbound", "").strip(),
        python=sections.get("python", "").strip(),
        home_free_bytes=_free_of(sections.get("homedisk", "")),
        has_bundle=bool(sections.get("bundle", "").strip()),
        front=sections.get("front", "").strip(),
    )


def cards(output: str) -> Gpus:
    """The same of the cards alone, also out of the answer of the script that asks for nothing else."""
    return _gpus(dict(_sections(output)).get("gpu", "absent"))


def _sections(output: str) -> Iterator[tuple[str, str]]:
    for part in output.split(SECTION)[1:]:
        name, _, body = part.partition("\n")
        yield name.strip(), body.strip("\n")


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _docker(said: str) -> tuple[dict[str, Any], str]:
    """What `docker version` says, and why it says nothing of the engine. It may say both on lines of their own."""
    found: dict[str, Any] = {}
    words = []
    for line in said.splitlines():
        if line.startswith("{"):
            found = _json(line)
        elif line.strip():
            words.append(line.strip())
    if found.get("Server"):
        return found, ""
    return found, " ".join(words) or "absent"


def _gpus(said: str) -> Gpus:
    """The cards as `nvidia-smi` lists them."""
    if said == "absent":
        return Gpus(())
    cards = []
    for line in said.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 5 and re.fullmatch(r"[\d.]+", parts[1]):
            name, driver, total, free, architecture = parts
            cards.append(Gpu(name, driver, _mib(total), _mib(free), architecture))
    return Gpus(tuple(cards)) if cards else Gpus((), said.strip().splitlines()[0] if said.strip() else "nvidia-smi")


def _mib(text: str) -> int:
    """Cards that share the memory of the CPU say [N/A]."""
    return int(text) << 20 if text.isdigit() else 0


def _free_of(line: str) -> int:
    """Bytes that `df -Pk` calls free."""
    parts = line.split()
    return int(parts[3]) * 1024 if len(parts) > 3 and parts[3].isdigit() else 0


def _owners(said: str) -> Iterator[tuple[int, str]]:
    """Who listens where, as `ss -ltnp` has it: users:(("caddy",pid=3,fd=7)); without rights it names nobody."""
    for line in said.splitlines():
        parts = line.split()
        port = parts[3].rpartition(":")[2] if len(parts) > 3 else ""
        if port.isdigit():
            named = re.search(r'\("([^"]+)",pid=(\d+)', line)
            yield int(port), f"{named[1]} ({named[2]})" if named else "?"
