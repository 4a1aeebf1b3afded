"""app.adapters.gauge on the CPU"""

from __future__ import annotations

import sys

import pytest
import torch

from app.adapters.gauge import Gauge

PIECE, PIECES = 64 << 10, 1600  # small enough that the C library keeps them


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is known on Linux alone")
def test_what_earlier_work_has_left_does_not_hide_what_is_taken() -> None:
    earlier = [bytes(PIECE) for _ in range(PIECES)]
    above = bytes(PIECE)  # below it nothing is given back by itself
    earlier.clear()
    gauge = Gauge(torch.device("cpu"))
    gauge.start()
    taken = [bytes(PIECE) for _ in range(PIECES)]
    expected = PIECE * PIECES
    assert gauge.held_bytes() > 0.8 * expected
    taken.clear()
    assert gauge.peak_bytes() > 0.8 * expected
    assert len(above) == PIECE
