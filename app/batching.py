"""How many videos of the same settings are made at once: only more than one where that saves time on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.memory import Measurement
from jingxiang.models import Preset

# What a video must be faster at least, made together with others: below that they only wait for one another.
GAIN = 1.05


def size(known: Sequence[Measurement], preset: Preset, most: int, fits: Callable[[int], bool], *, rung: str) -> int:
    """The largest number up to `most` that fits, and that was measured to gain, or was never tried.

    `known`: of one card, model and dtype. `fits`: whether so many at once fit into memory.
    """
    alone = _seconds_each(known, preset, 1, rung)
    for batch in range(most, 1, -1):
        if not fits(batch):
            continue
        together = _seconds_each(known, preset, batch, rung)
        if alone is None or together is None or alone / together >= GAIN:
            return batch
    return 1


def _seconds_each(known: Sequence[Measurement], preset: Preset, batch: int, rung: str) -> float | None:
    """Of the fastest run with exactly these settings, the others having been held up by something; None if there was
    none.
    """
    found = [
        each.seconds / batch
        for each in known
        if each.rung == rung
        and each.batch == batch
        and each.seconds > 0
        and (each.width, each.height, each.frames, each.steps)
        == (preset.width, preset.height, preset.frames, preset.steps)
    ]
    return min(found, default=None)
