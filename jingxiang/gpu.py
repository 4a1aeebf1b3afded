"""NVIDIA GPUs of this machine, asked of `nvidia-smi`: no torch needed."""

from __future__ import annotations

from dataclasses import dataclass

from jingxiang import process
from jingxiang.language import tr

QUERY = "name,driver_version,memory.total,memory.free,compute_cap"
MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """One card. `architecture` is its compute capability, such as `9.0`."""

    name: str
    driver: str
    memory_bytes: int
    free_bytes: int
    architecture: str


@dataclass(frozen=True)
class Gpus:
    """The cards; or, if there are none, `problem`: empty where there is no sign of an NVIDIA driver."""

    cards: tuple[Gpu, ...]
    problem: str = ""


def detect() -> Gpus:
    """Ask the driver. A driver that is there but answers with an error is a problem to be shown."""
    asked = process.run(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"], timeout_s=20)
    if asked.code == 127:
        return Gpus(())
    if asked.code:
        return Gpus((), (asked.stdout or asked.stderr).strip().replace("\n", " "))
    try:
        return Gpus(tuple(_card(line) for line in asked.stdout.splitlines() if line.strip()))
    except ValueError:  # not the five values that were asked for
        return Gpus((), asked.stdout.strip().replace("\n", " "))


def _card(line: str) -> Gpu:
    name, driver, total, free, architecture = (part.strip() for part in line.split(","))
    return Gpu(name, driver, _mib(total), _mib(free), architecture)


def _mib(text: str) -> int:
    """MiB as the driver prints them; cards that share their memory with the CPU answer `[N/A]`."""
    return int(text) * MIB if text.isdigit() else 0


def summary(found: Gpus) -> str:
    """One line for people."""
    if found.cards:
        card = found.cards[0]
        many = f"{len(found.cards)} x " if len(found.cards) > 1 else ""
        return tr(
            "{many}{name}, driver {driver}, {free:.1f} of {total:.1f} GiB free",
            many=many,
            name=card.name,
            driver=card.driver,
            free=card.free_bytes / 2**30,
            total=card.memory_bytes / 2**30,
        )
    return (
        tr("NVIDIA driver does not answer: {problem}", problem=found.problem)
        if found.problem
        else tr("no NVIDIA GPU: CPU build")
    )
