"""A driver's answers in place of those of this machine: NVIDIA's own binding, with cards that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pynvml
import pytest

from jingxiang.gpu import Gpu

H200 = Gpu("NVIDIA H200", "570.86.15", 143771 << 20, 143000 << 20, "9.0")
L20 = Gpu("NVIDIA L20", "550.90.07", 46068 << 20, 45000 << 20, "8.9")
B200 = Gpu("NVIDIA B200", "580.95.05", 183359 << 20, 183000 << 20, "10.0")
T4 = Gpu("Tesla T4", "470.82.01", 15109 << 20, 15000 << 20, "7.5")
K80 = Gpu("Tesla K80", "535.161.08", 11441 << 20, 11000 << 20, "3.7")


def answers(patch: pytest.MonkeyPatch, cards: Sequence[Gpu] = (), *, init: int = 0, memory: int = 0) -> None:
    """Let the driver know these cards; `init` and `memory`: the error with which it answers when it is asked first, and
    when it is asked for a card's memory."""

    def fail(code: int) -> None:
        if code:
            raise pynvml.NVMLError(code)

    def memory_of(card: Gpu) -> SimpleNamespace:
        fail(memory)
        return SimpleNamespace(total=card.memory_bytes, free=card.free_bytes)

    replies = {
        "nvmlInit": lambda: fail(init),
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: cards[0].driver if cards else "550.90.07",
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda number: cards[number],
        "nvmlDeviceGetName": lambda card: card.name,
        "nvmlDeviceGetMemoryInfo": memory_of,
        "nvmlDeviceGetCudaComputeCapability": lambda card: [int(part) for part in card.architecture.split(".")],
    }
    for name, reply in replies.items():
        patch.setattr(pynvml, name, reply)


def absent(patch: pytest.MonkeyPatch) -> None:
    """A machine without any driver."""
    answers(patch, init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
