"""How much memory a run takes at most, and whether an error says that there was not enough."""

from __future__ import annotations

import ctypes
import re
import sys
import traceback
from pathlib import Path

import torch

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # see /proc/PID/clear_refs in `man 5 proc`
# What libraries raise as a RuntimeError: cuBLAS, cuDNN, the driver, and PyTorch's allocator on the CPU.
SCARCE = re.compile(r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|out of memory|can't allocate memory")


class Gauge:
    """On a GPU: bytes that PyTorch's allocator has given out, which is what its users hold; what it keeps besides is
    given up before it fails. On the CPU: what the process holds in RAM (Linux only) beyond what it held when the gauge
    was made, which should be before weights are loaded.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = 0
        if device.type != "cuda":
            _give_back()
            self._before = _status("VmRSS")

    def start(self) -> None:
        """Forget earlier peaks."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            (PROCESS / "clear_refs").write_text(RESET_PEAK)
        except OSError:  # not Linux, or not allowed: then it is the peak since the process began
            return

    def peak_bytes(self) -> int:
        """The most since `start`; 0 where it cannot be known."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return max(0, _status("VmHWM") - self._before)

    def held_bytes(self) -> int:
        """What is held now; on a GPU with what the allocator keeps, since that can be used again."""
        if self.device.type == "cuda":
            return int(torch.cuda.memory_reserved(self.device))
        return max(0, _status("VmRSS") - self._before)


def ran_out(error: BaseException) -> bool:
    """Whether memory ran out, of the GPU or of the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and SCARCE.search(str(error)) is not None


def let_go(error: BaseException) -> None:
    """Empty the frames that an error came through: their variables would keep what they were working on alive."""
    for each in chain(error):
        traceback.clear_frames(each.__traceback__)


def chain(error: BaseException) -> list[BaseException]:
    """An error, and all that it came of."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and not any(each is other for other in found):
            found.append(each)
            waiting += [each.__cause__, each.__context__]
    return found


def _give_back() -> None:
    """Let the C library give back what it keeps of earlier work, if it can: what is measured next would find room in
    it, and seem to take less.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _status(name: str) -> int:
    """A line of /proc/self/status that counts memory, in bytes."""
    try:
        text = (PROCESS / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0
