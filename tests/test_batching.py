"""app.batching"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app import batching
from app.memory import Measurement
from jingxiang.models import Preset

PRESET = Preset(512, 512, 16, 40, 8, 9.0)


def measured(batch: int, seconds: float, **changes: object) -> Measurement:
    values = {"width": 512, "height": 512, "frames": 16, "steps": 40, "rung": "full"} | changes
    return Measurement(gpu="H100", model="m", dtype="fp16", batch=batch, peak_bytes=1, seconds=seconds, **values)  # type: ignore[arg-type]


def at_most(count: int) -> Callable[[int], bool]:
    return lambda batch: batch <= count


@pytest.mark.parametrize(
    ("known", "most", "fitting", "size"),
    [
        ([], 4, 4, 4),  # never tried: it is tried
        ([], 4, 3, 3),
        ([], 4, 1, 1),
        ([], 1, 4, 1),
        ([measured(1, 10.0)], 4, 4, 4),
        ([measured(1, 10.0), measured(4, 30.0)], 4, 4, 4),
        ([measured(1, 10.0), measured(4, 40.0)], 4, 4, 3),  # it gained nothing: fewer are tried
        ([measured(1, 10.0), measured(4, 40.0), measured(3, 30.0), measured(2, 20.0)], 4, 4, 1),
        ([measured(1, 10.0), measured(4, 40.0), measured(3, 27.0)], 4, 4, 3),
        ([measured(1, 20.0), measured(1, 10.0), measured(4, 39.0)], 4, 4, 3),  # the first run of all was slow
        ([measured(1, 10.0), measured(4, 40.0, steps=20)], 4, 4, 4),  # other settings say nothing
        ([measured(1, 10.0), measured(4, 40.0, rung="offload")], 4, 4, 4),
        ([measured(1, 0.0), measured(4, 40.0)], 4, 4, 4),  # its time is not known
    ],
)
def test_as_many_as_fit_and_gain(known: list[Measurement], most: int, fitting: int, size: int) -> None:
    assert batching.size(known, PRESET, most, at_most(fitting), rung="full") == size
