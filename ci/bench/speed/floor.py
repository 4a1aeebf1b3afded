"""How fast it could be: what has to be computed, over how fast this card multiplies matrices."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ci.bench.speed.stock import Stock, device, synchronize

SIDE = 8192  # of the matrices on a GPU; larger ones are no faster there
SMALL_SIDE = 512
ROUNDS, PRODUCTS = 5, 20


@dataclass(frozen=True)
class Work:
    """Floating-point operations of matrix products, convolutions and attention: of one step, and of all else (the
    encoders and the decoder) of one video.
    """

    step: int
    rest: int

    def of(self, steps: int) -> int:
        return self.rest + steps * self.step


def counted(stock: Stock) -> Work:
    """By running it in two steps and in three."""
    two, three = (_operations(stock, steps) for steps in (2, 3))
    return Work(three - two, two - 2 * (three - two))


def _operations(stock: Stock, steps: int) -> int:
    with FlopCounterMode(display=False) as counter:
        stock.make(steps, lambda: None)
    return int(counter.get_total_flops())


def rate() -> float:
    """Operations a second of a large product of random matrices in fp16 (in fp32 on the CPU): the median of several
    rounds. Zeros would be multiplied faster, since they take less power.
    """
    is_gpu = device() == "cuda"
    side, dtype = (SIDE, torch.float16) if is_gpu else (SMALL_SIDE, torch.float32)
    left, right = (torch.randn(side, side, device=device(), dtype=dtype) for _ in range(2))
    product = left @ right
    seconds = []
    for _ in range(ROUNDS):
        synchronize()
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            torch.matmul(left, right, out=product)
        synchronize()
        seconds.append((time.perf_counter() - start) / PRODUCTS)
    return 2 * side**3 / statistics.median(seconds)
