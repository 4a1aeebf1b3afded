"""NVIDIA GPUs of this machine, asked of the driver through NVML: no torch needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jingxiang.language import tr


@dataclass(frozen=True)
class Gpu:
    """One card. `architecture` is its compute capability, such as `9.0`; cards without memory of their own have 0."""

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
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError_LibraryNotFound:
        return Gpus(())
    except nvml.NVMLError as error:
        return Gpus((), str(error))
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        return Gpus(tuple(_card(nvml, driver, number) for number in range(nvml.nvmlDeviceGetCount())))
    except nvml.NVMLError as error:
        return Gpus((), str(error))
    finally:
        nvml.nvmlShutdown()


def _card(nvml: Any, driver: str, number: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = memory.total, memory.free
    except nvml.NVMLError_NotSupported:  # it shares the memory of the CPU
        total = free = 0
    return Gpu(nvml.nvmlDeviceGetName(handle), driver, total, free, f"{major}.{minor}")


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
        tr("NVIDIA driver does not answer: {problem}", problem=found.problem) if found.problem else tr("no NVIDIA GPU")
    )
