"""What a host must have before an image can run on it: everything that could be in the way, all at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jingxiang import console, container_plan, profiles
from jingxiang.deploy_plan import REGISTRY, Front, Order
from jingxiang.findings import NOTE, OK, PROBLEM, Finding
from jingxiang.gpu import Gpus
from jingxiang.host_facts import PROXY, Facts
from jingxiang.language import tr

LEAST_API = (1, 41)  # docker 20.10
CLOCK_S = 300.0  # certificates and signed requests are refused when clocks differ by more
NVIDIA = re.compile(r"nvidia\.com/gpu|nvidia")
# What an environment takes on a disk, by profile; a layer is unpacked beside the ones that are there.
ENVIRONMENT_BYTES = {"cpu": 1_700_000_000, "cuda12": 7_500_000_000, "cuda13": 7_500_000_000}
UPDATE_BYTES = 500_000_000


@dataclass(frozen=True)
class Need:
    """What an image asks of a host: its profile (None: none fits, and `problem` says why), the GPU memory that its
    model takes, and what its weights take on a disk."""

    profile: str | None
    needed_bytes: int = 0
    weights_bytes: int = 0
    problem: str = ""
    fix: str = ""


def findings(host: str, found: Facts, need: Need, order: Order) -> tuple[Finding, ...]:
    """All at once, in the order in which they would be met."""
    return (
        Finding("ssh", OK, tr("{host}: lets us in", host=host)),
        _system(found),
        *_engine(found),
        *_gpu(found, need),
        *_disk(found, need),
        *_ports(found, order),
        *_rest(found, order),
    )


def bare_findings(host: str, found: Facts, need: Need, order: Order) -> tuple[Finding, ...]:
    """The same for a host without docker: the environment is made there, and needs a Python to begin with."""
    return (
        Finding("ssh", OK, tr("{host}: lets us in", host=host)),
        _system(found),
        _python(found),
        *(each for each in _gpu(found, need) if each.subject != "container"),
        _home(found, need),
        *_ports(found, order),
        *_rest(found, order),
    )


def summary(found: Facts) -> str:
    """One line for people."""
    engine = [f"docker {found.version}"] if found.version else []
    cards = [found.gpus.cards[0].name] if found.gpus.cards else []
    free = tr("{size} of disk free", size=console.size(found.free_bytes))
    return ", ".join((found.system, *engine, *cards, free))


def probed(found: str) -> Finding:
    """What came of running `nvidia-smi -L` in a container with all GPUs; its last line is `rc CODE`."""
    *lines, last = found.strip().splitlines()
    said = [line for line in lines if line.strip()]
    if last.split() == ["rc", "0"] and any(line.startswith("GPU ") for line in said):
        count = sum(line.startswith("GPU ") for line in said)
        return Finding("container", OK, tr("a container has {count} GPUs", count=count))
    text = said[-1] if said else last
    toolkit = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    fix = toolkit
    if "unsatisfied condition" in found:
        text = next(line for line in said if "unsatisfied condition" in line)
        fix = tr("a newer NVIDIA driver, or --profile cuda12")
    elif "could not select device driver" in found:
        text = tr("docker cannot give GPUs to containers: {reason}", reason="could not select device driver")
        fix = f"sudo apt-get install nvidia-container-toolkit && {toolkit}"
    return Finding("container", PROBLEM, text, fix)


def _system(found: Facts) -> Finding:
    text = f"{found.system}, {found.arch}"
    if found.arch == "x86_64":
        return Finding("system", OK, text)
    return Finding("system", PROBLEM, text, tr("use a host with an x86-64 processor"))


def _engine(found: Facts) -> Iterator[Finding]:
    problem = found.docker_problem
    if problem == "absent":
        yield Finding("docker", PROBLEM, tr("is not installed"), tr("sudo apt-get install docker.io; or ssh+env://…"))
    elif "permission denied" in problem:
        fix = tr("sudo usermod -aG docker $USER there, then log in again")
        yield Finding("docker", PROBLEM, tr("does not let this user in"), fix)
    elif problem:
        yield Finding("docker", PROBLEM, problem, "sudo systemctl enable --now docker")
    elif found.api < LEAST_API:
        text = tr("engine {version} is too old; needed is 20.10", version=found.version)
        yield Finding("docker", PROBLEM, text, "sudo apt-get install --only-upgrade docker.io")
    else:
        yield Finding("docker", OK, tr("engine {version}", version=found.version))
        if "/snap/" in str(found.info.get("DockerRootDir", "")) and found.gpus.cards:
            yield Finding("docker", PROBLEM, tr("it comes from snap, which keeps GPUs from containers"),
                          "sudo snap remove docker && sudo apt-get install docker.io")  # fmt: skip


def _python(found: Facts) -> Finding:
    """`setup` begins with whatever Python 3 the host has, if that can make environments."""
    version, _, state = found.python.partition(" ")
    if state == "venv" and (3, 10) <= tuple(int(part) for part in version.split(".")) <= (3, 13):
        return Finding("python", OK, version)
    text = tr("{version}: needed is 3.10 to 3.13, with venv", version=found.python or "-")
    return Finding("python", PROBLEM, text, "sudo apt-get install python3 python3-venv")


def _home(found: Facts, need: Need) -> Finding:
    """Bundle and environment, each once; hard links otherwise."""
    needed = 2 * (ENVIRONMENT_BYTES[need.profile or "cpu"] + need.weights_bytes)
    text = tr("{folder}: {free} free", folder=found.home, free=console.size(found.home_free_bytes))
    if found.has_bundle or found.home_free_bytes >= needed:
        return Finding("disk", OK, text)
    text += ", " + tr("{needed} needed", needed=console.size(needed))
    return Finding("disk", PROBLEM, text, tr("make room there, or choose a larger disk"))


def _gpu(found: Facts, need: Need) -> Iterator[Finding]:
    if found.gpus.problem:
        yield Finding(
            "gpu", PROBLEM, found.gpus.problem, tr("reinstall or load the NVIDIA driver, then try: nvidia-smi")
        )
        return
    if need.profile is None:
        yield Finding("gpu", PROBLEM, need.problem, need.fix)
        return
    if not found.gpus.cards or not need.needed_bytes:
        wanted = profiles.PROFILES[need.profile].oldest_driver
        if wanted:
            yield Finding("gpu", PROBLEM, tr("no NVIDIA GPU, which {profile} needs", profile=need.profile),
                          "--profile cpu")  # fmt: skip
        else:
            text = tr("none is used: {profile}", profile=need.profile)
            yield Finding("gpu", OK if not found.gpus.cards else NOTE, text)
        return
    card = found.gpus.cards[0]
    text = tr("{name}, {free:.1f} of {total:.1f} GiB free, driver {driver}: {profile}", name=card.name,
              free=card.free_bytes / 2**30, total=card.memory_bytes / 2**30, driver=card.driver,
              profile=need.profile)  # fmt: skip
    problems = list(dict.fromkeys(filter(None, map(profiles.PROFILES[need.profile].problem, found.gpus.cards))))
    if problems:
        fix = tr("update the NVIDIA driver, or choose another --profile")
        yield from (Finding("gpu", PROBLEM, problem, fix) for problem in problems)
    else:
        yield Finding("gpu", OK, text)
    yield from _memory(found, need)
    if found.probe is not None:
        yield probed(found.probe)
    elif not found.docker_problem and not _lists_nvidia(found.info):
        text = tr("docker lists no way to give GPUs to containers; it is tried with the image")
        yield Finding("container", NOTE, text, "sudo apt-get install nvidia-container-toolkit")
    elif not found.docker_problem:
        text = tr("no image is there yet to try it with: whether a container gets the GPUs is tried when it is sent")
        yield Finding("container", NOTE, text)


def _memory(found: Facts, need: Need) -> Iterator[Finding]:
    smallest = min(found.gpus.cards, key=lambda card: card.memory_bytes)
    if smallest.memory_bytes and smallest.memory_bytes < need.needed_bytes:
        text = tr("{needed:.1f} GiB wanted, {total:.1f} there: it runs in less memory, and slower",
                  needed=need.needed_bytes / 2**30, total=smallest.memory_bytes / 2**30)  # fmt: skip
        yield Finding("vram", NOTE, text)
    elif not found.is_serving and _free(found.gpus) < min(need.needed_bytes, smallest.memory_bytes):
        held = "; ".join(found.gpu_users[:3])
        text = tr("{needed:.1f} GiB wanted, {free:.1f} free; held by (number, MiB, program): {who}",
                  needed=need.needed_bytes / 2**30, free=_free(found.gpus) / 2**30, who=held or "?")  # fmt: skip
        yield Finding("vram", PROBLEM, text, tr("end that program, or choose another card or host"))
    else:
        yield Finding("vram", OK, tr("{needed:.1f} GiB wanted", needed=need.needed_bytes / 2**30))


def _free(gpus: Gpus) -> int:
    return min((card.free_bytes for card in gpus.cards), default=0)


def _lists_nvidia(info: Mapping[str, Any]) -> bool:
    """A runtime of NVIDIA's, or devices in the form of CDI; the option --gpus needs neither to be listed."""
    return bool(NVIDIA.search(json.dumps([info.get("Runtimes"), info.get("DiscoveredDevices")])))


def _disk(found: Facts, need: Need) -> Iterator[Finding]:
    if found.docker_problem:
        return
    whole = 2 * (ENVIRONMENT_BYTES[need.profile or "cpu"] + need.weights_bytes)
    needed = UPDATE_BYTES if found.has_image else whole
    root = str(found.info.get("DockerRootDir", ""))
    text = tr("{folder}: {free} free", folder=root, free=console.size(found.free_bytes))
    if found.free_bytes < needed:
        text += ", " + tr("{needed} needed", needed=console.size(needed))
        yield Finding(
            "disk", PROBLEM, text, tr("docker system prune there, or a larger disk for {folder}", folder=root)
        )
    else:
        yield Finding("disk", OK, text)
    if found.rotates:
        yield Finding(
            "disk", NOTE, tr("the disk says that it turns: models load slowly (virtual disks may only say so)")
        )


def ports(front: Front) -> list[int]:
    """Those of the host that a page takes."""
    return [port for _, _, port in container_plan.published(front)]


def _ports(found: Facts, order: Order) -> Iterator[Finding]:
    """Free, or those of the proxy of an earlier deployment."""
    ours = set(map(int, re.findall(r":(\d+)->", found.ours.get(PROXY, {"ports": ""})["ports"])))
    if found.front:
        ours |= {port for port in ports(Front.of(found.front)) if found.port_owners.get(port, "").startswith("caddy")}
    for port in ports(order.front):
        owner = found.port_owners.get(port)
        if owner and port not in ours:
            text = tr("{port} is taken by {owner}", port=port, owner=owner)
            fix = tr("--port with another number") if port == order.front.port else tr(
                "end that program, or leave out --domain: a public certificate needs port {port}", port=port
            )  # fmt: skip
            yield Finding("port", PROBLEM, text, fix)
        else:
            yield Finding("port", OK, str(port))


def _rest(found: Facts, order: Order) -> Iterator[Finding]:
    if abs(found.skew_s) > CLOCK_S:
        text = tr("the clock is {seconds:.0f} s off", seconds=found.skew_s)
        yield Finding("clock", PROBLEM if order.front.public else NOTE, text, "sudo timedatectl set-ntp true")
    else:
        yield Finding("clock", OK, tr("fits"))
    if found.memory_bytes:
        yield Finding("memory", OK, tr("{free} free", free=console.size(found.memory_bytes)))
    if order.registry and order.transfer != "ssh":
        good = found.outbound.endswith(("200", "401"))
        if found.outbound == "unknown":
            text = tr("{registry}: curl is not there to try it with; docker will", registry=order.registry)
            yield Finding("outbound", NOTE, text)
            return
        state = OK if good else PROBLEM if order.transfer == REGISTRY else NOTE
        text = order.registry if good else tr("{registry} does not answer there: {reason}", registry=order.registry,
                                              reason=found.outbound or "?")  # fmt: skip
        yield Finding("outbound", state, text, "" if good else tr("--transfer ssh, or a registry near the host"))
