"""`calibrate`: a few short runs that show what a model takes of this machine: memory and time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from app import adapters, cards, memory
from app.memory import CPU_RUNGS, Measurement, Refusal
from app.texts import tr
from jingxiang import console
from jingxiang.models import FULL, ModelSpec, Preset
from jingxiang.presets import STANDARD

if TYPE_CHECKING:
    from app.adapters.base import Model

Record = Callable[[Measurement], None]
FAST = "fast"
STEPS = (2, 6)  # two numbers tell what each step costs and what decoding does
GIB = 1 << 30


def calibrate(spec: ModelSpec, models: Path, *, as_json: bool, record: Record) -> list[Measurement]:
    """Run what fits. Each result goes to `record` at once, and to stdout: as a line, or all of them as one object."""
    model = adapters.load(spec, models / spec.name)
    try:
        found: list[Measurement] = []
        _run(model, FULL, spec.preset(FAST), 1)  # the first run also loads the libraries' kernels
        for rung, preset, batch in _wanted(model):
            refused = _refusal(model, found, rung, preset, batch)
            if refused is not None:
                console.line("skipped", f"{_size(preset, batch)}: {refused.message}")
                continue
            measured = _run(model, rung, preset, batch)
            found.append(measured)
            record(measured)
            if as_json:
                console.line("measured", _line(measured))
            else:
                console.data(_line(measured))
    finally:
        model.close()
    if as_json:
        console.data_json({"measurements": [asdict(each) for each in found]})
    return found


def _wanted(model: Model) -> Iterator[tuple[str, Preset, int]]:
    """Small sizes first: what they show says whether the larger ones fit."""
    fast, standard = model.spec.preset(FAST), model.spec.preset(STANDARD)
    few, more = STEPS
    for rung in model.spec.rungs:
        if model.uuid or rung in CPU_RUNGS:
            yield rung, replace(fast, steps=few), 1
            yield rung, replace(standard, steps=few), 1
    yield FULL, replace(fast, steps=more), 1
    yield FULL, replace(standard, steps=more), 1
    yield FULL, replace(fast, steps=few), 2


def _refusal(model: Model, known: list[Measurement], rung: str, preset: Preset, batch: int) -> Refusal | None:
    """Why it would not fit on just this rung."""
    alone = replace(model.spec, rungs={rung: model.spec.rungs[rung]})
    planned = memory.plan(
        alone, known, cards.space(model.uuid), preset, batch, gpu=model.gpu, dtype=model.dtype_name,
        held_bytes=model.held_bytes, own=(os.getpid(),),
    )  # fmt: skip
    return planned if isinstance(planned, Refusal) else None


def _run(model: Model, rung: str, preset: Preset, batch: int) -> Measurement:
    from app.adapters.base import Request

    picture = Image.radial_gradient("L").convert("RGB")
    prompt = "the camera moves slowly" if model.spec.takes_prompt else ""
    requests = [Request(picture, prompt, preset, seed) for seed in range(batch)]
    return memory.measurement(model, preset, batch, model.generate(requests, lambda *_: None, rung))


def _size(preset: Preset, batch: int) -> str:
    return tr("{width}x{height}, {frames} frames, {batch} at once", width=preset.width, height=preset.height,
              frames=preset.frames, batch=batch)  # fmt: skip


def _line(each: Measurement) -> str:
    return tr("{size}, {rung}: {gib:.2f} GiB, {steps} steps in {seconds:.2f} s", size=_size(each.preset, each.batch),
              rung=each.rung, gib=each.peak_bytes / GIB, steps=each.steps, seconds=each.seconds)  # fmt: skip
