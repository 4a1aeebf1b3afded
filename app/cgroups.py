"""What Linux lets this process have: the memory and cores of its control group, which is how containers are limited.

Version 2: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max, cpu.max); version 1: memory.limit_in_bytes
and cpu.cfs_quota_us of cgroup-v1/memory.html and scheduler/sched-bwc.html.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Memory:
    """A limit, and how much of it is in use (without caches of files, which are given up when memory is needed)."""

    limit_bytes: int
    used_bytes: int


@dataclass(frozen=True)
class Allowance:
    """None where there is no limit. `cores` may be a fraction."""

    memory: Memory | None
    cores: float | None


def allowance(mount: Path = MOUNT, own: Path = OWN) -> Allowance:
    """The tightest limits of the process's own group and those around it, as far as they can be seen."""
    paths = _own_paths(own)
    if "memory" in paths:
        memory = _each(mount / "memory", paths["memory"], _memory_v1)
    else:
        memory = _each(mount, paths.get("", "/"), _memory_v2)
    if "cpu" in paths:
        cores = _each(mount / "cpu", paths["cpu"], _cores_v1) or _each(mount / "cpu,cpuacct", paths["cpu"], _cores_v1)
    else:
        cores = _each(mount, paths.get("", "/"), _cores_v2)
    return Allowance(min(memory, key=lambda each: each.limit_bytes, default=None), min(cores, default=None))


def _own_paths(own: Path) -> dict[str, str]:
    """The process's group by controller of version 1; of version 2 under an empty name. `man 7 cgroups`."""
    found = {}
    for line in _text(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _each(mount: Path, own: str, read: Callable[[Path], _T | None]) -> list[_T]:
    return [found for folder in _folders(mount, own) if (found := read(folder)) is not None]


def _folders(mount: Path, own: str) -> Iterator[Path]:
    """The group's folder and those above it. In a container its path may be that on the host, and then only the top is
    there: which is the container's own.
    """
    parts = [part for part in PurePosixPath(own).parts if part not in ("/", "..")]
    for length in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:length])
        if folder.is_dir():
            yield folder


def _memory_v1(folder: Path) -> Memory | None:
    return _memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _memory_v2(folder: Path) -> Memory | None:
    return _memory(folder, "memory.max", "memory.current", "inactive_file")


def _memory(folder: Path, limit: str, used: str, cache: str) -> Memory | None:
    limit_bytes = _number(_text(folder / limit))
    if limit_bytes is None:
        return None
    statistics = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    in_use = (_number(_text(folder / used)) or 0) - (_number(statistics.get(cache, "")) or 0)
    return Memory(limit_bytes, max(0, in_use))


def _cores_v1(folder: Path) -> float | None:
    return _share(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _cores_v2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return _share(quota, period)


def _share(quota: str, period: str) -> float | None:
    """Microseconds of CPU time in each period; `max` or -1 where there is no limit."""
    quota_us, period_us = _number(quota), _number(period)
    return quota_us / period_us if quota_us and period_us else None


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    """Empty where there is nothing to be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
