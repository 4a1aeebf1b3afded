"""`generate`: the engine without the page."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tqdm import tqdm

from app import generation
from app.generation import Order
from app.texts import tr
from jingxiang import console
from jingxiang.models import ModelSpec


def generate(spec: ModelSpec, models: Path, order: Order) -> None:
    """Make the video with a progress bar on stderr; its path is what goes to stdout."""
    start = time.monotonic()
    console.line("model", f"{spec.title}: {spec.notice}" if spec.notice else spec.title)
    from app import pipelines  # torch and diffusers: seconds, in which the line above is already to be seen

    model = pipelines.load(spec, models / spec.name)
    console.line("load", tr("{seconds:.1f} s", seconds=time.monotonic() - start))
    start = time.monotonic()
    with tqdm(total=order.preset.steps, desc=tr("steps"), file=sys.stderr, disable=None, leave=False) as bar:
        generation.run(model, order, lambda done, of: bar.update())
    preset = order.preset
    text = tr("{width}x{height}, {frames} frames, {steps} steps, seed {seed}, in {seconds:.1f} s",
              width=preset.width, height=preset.height, frames=preset.frames, steps=preset.steps, seed=order.seed,
              seconds=time.monotonic() - start)  # fmt: skip
    console.line("video", text)
    console.data(str(order.output))
