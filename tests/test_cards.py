"""app.cards"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from app import cards
from app.cards import Holder, Space
from app.cgroups import Allowance, Memory
from tests.peers import nvml

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n"


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path


def running(*found: tuple[int, int | None]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in found]


def test_a_card_is_asked_how_much_is_free_and_who_holds_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch, [nvml.L20])
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda card: running((1, 5 << 20), (999_999_999, 7 << 30))
    )
    monkeypatch.setattr(pynvml, "nvmlDeviceGetGraphicsRunningProcesses", lambda card: running((1, 9 << 20), (2, None)))
    found = cards.space()
    assert found is not None
    one = Path("/proc/1/comm").read_text().strip()
    assert found == Space(
        True, nvml.L20.memory_bytes, nvml.L20.free_bytes, (Holder(999_999_999, "", 7 << 30), Holder(1, one, 9 << 20))
    )


def test_a_driver_that_does_not_tell_who_holds_memory_still_tells_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch, [nvml.T4])

    def refuse(card: object) -> list[SimpleNamespace]:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", refuse)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetGraphicsRunningProcesses", refuse)
    assert cards.space() == Space(True, nvml.T4.memory_bytes, nvml.T4.free_bytes)


@pytest.mark.parametrize(
    ("visible", "uuid", "asked"),
    [
        ("", "", 0),
        ("1", "", 1),
        ("1,0", "", 1),
        ("GPU-abc", "", "GPU-abc"),
        ("1", "f00-1", "GPU-f00-1"),
        ("", "GPU-f00-1", "GPU-f00-1"),
    ],
)
def test_the_card_that_is_asked_is_the_one_that_programs_use(
    monkeypatch: pytest.MonkeyPatch, visible: str, uuid: str, asked: object
) -> None:
    nvml.answers(monkeypatch, [nvml.T4, nvml.L20])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    wanted: list[object] = []

    def handle(which: object) -> object:
        wanted.append(which)
        return nvml.L20

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", handle)
    for name in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        monkeypatch.setattr(pynvml, name, lambda card: [])
    found = cards.space(uuid)
    assert found is not None
    assert (wanted, found.total_bytes) == ([asked], nvml.L20.memory_bytes)


def test_without_a_card_it_is_the_memory_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.absent(monkeypatch)
    found = cards.space()
    assert found is not None
    assert not found.is_gpu
    assert 0 < found.free_bytes <= found.total_bytes


def test_a_card_that_shares_the_memory_of_the_cpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch, [nvml.L20], memory=pynvml.NVML_ERROR_NOT_SUPPORTED)
    found = cards.space()
    assert found is not None
    assert not found.is_gpu


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (None, (16_000_000 << 10, 9_000_000 << 10)),
        (Memory(4 << 30, 1 << 30), (4 << 30, 3 << 30)),
        (Memory(12 << 30, 1 << 30), (12 << 30, 9_000_000 << 10)),
        (Memory(4 << 30, 5 << 30), (4 << 30, 0)),
        (Memory(1 << 50, 1 << 30), (16_000_000 << 10, 9_000_000 << 10)),
    ],
)
def test_of_the_cpu_it_is_what_linux_and_the_container_give(
    processes: Path, memory: Memory | None, expected: tuple[int, int]
) -> None:
    assert cards.ram(processes, Allowance(memory, None)) == Space(False, *expected)


def test_where_nobody_says_how_much_there_is_it_is_unknown(tmp_path: Path) -> None:
    assert cards.ram(tmp_path, Allowance(None, None)) is None
    (tmp_path / "meminfo").write_text("MemTotal: 5 kB\n")
    assert cards.ram(tmp_path, Allowance(None, None)) is None
