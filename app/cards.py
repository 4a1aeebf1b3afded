"""The memory that a model can have on this machine: of a GPU, asked of its driver, or of the CPU. No torch needed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from app import cgroups
from app.cgroups import Allowance

VISIBLE = "CUDA_VISIBLE_DEVICES"
PROCESSES = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a GPU. `program` is empty where it cannot be known, as from inside a container."""

    pid: int
    program: str
    size_bytes: int


@dataclass(frozen=True)
class Space:
    """Memory as it is now. `holders`: only of a GPU, those who hold most first; none where the driver does not say."""

    is_gpu: bool
    total_bytes: int
    free_bytes: int
    holders: tuple[Holder, ...] = ()


def is_cpu_build() -> bool:
    """Whether the PyTorch that is installed cannot use a GPU, whatever cards there are."""
    return "+cpu" in metadata.version("torch")


def expected() -> Space | None:
    """That of what a model will be loaded to."""
    return ram() if is_cpu_build() else space()


def of(uuid: str) -> Space | None:
    """That of what a model is loaded to, by `Model.uuid`."""
    return space(uuid) if uuid else ram()


def space(uuid: str = "") -> Space | None:
    """That of the GPU with this UUID, as `torch.cuda.get_device_properties` gives it, or of the first one that programs
    may use; without any, that of the CPU. None where nobody says how much there is.
    """
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ram()
    try:
        handle = _handle(nvml, uuid)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return Space(True, memory.total, memory.free, _holders(nvml, handle))
    except nvml.NVMLError:  # no such card, or it shares the memory of the CPU
        return ram()
    finally:
        nvml.nvmlShutdown()


def ram(processes: Path = PROCESSES, allowance: Allowance | None = None) -> Space | None:
    """What Linux can give without swapping, within the limits of the control group."""
    try:
        text = (processes / "meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    kilobytes = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if not {"MemTotal", "MemAvailable"} <= set(kilobytes):
        return None
    total, free = kilobytes["MemTotal"] << 10, kilobytes["MemAvailable"] << 10
    limit = (allowance or cgroups.allowance()).memory
    if limit is not None and limit.limit_bytes < total:
        total, free = limit.limit_bytes, min(free, max(0, limit.limit_bytes - limit.used_bytes))
    return Space(False, total, free)


def _handle(nvml: Any, uuid: str) -> Any:
    """CUDA and NVML number cards differently where they are not alike; a UUID is the same for both."""
    wanted = uuid or os.environ.get(VISIBLE, "").partition(",")[0].strip()
    if wanted.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(wanted))
    if wanted:
        return nvml.nvmlDeviceGetHandleByUUID(wanted if wanted.startswith(("GPU-", "MIG-")) else f"GPU-{wanted}")
    return nvml.nvmlDeviceGetHandleByIndex(0)


def _holders(nvml: Any, handle: Any) -> tuple[Holder, ...]:
    found: dict[int, int] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            running = ask(handle)
        except nvml.NVMLError:  # not told to everybody
            continue
        for process in running:
            if process.usedGpuMemory:  # None where the driver does not count it, as on Windows
                found[process.pid] = max(found.get(process.pid, 0), process.usedGpuMemory)
    holders = (Holder(pid, _program(pid), size_bytes) for pid, size_bytes in found.items())
    return tuple(sorted(holders, key=lambda holder: -holder.size_bytes))


def _program(pid: int, processes: Path = PROCESSES) -> str:
    """The name alone: arguments may hold what is not to be shown."""
    try:
        return (processes / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
