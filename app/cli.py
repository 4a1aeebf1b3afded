"""`generate`: the engine without the page."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from app import generation
from app.generation import Order
from app.texts import tr
from jingxiang import console
from jingxiang.models import ModelSpec


def generate(spec: ModelSpec, models: Path, order: Order, picture: Image.Image, output: Path) -> None:
    """Make the video with a progress bar on stderr; its path is what goes to stdout."""
    start = time.monotonic()
    console.line("model", f"{spec.title}: {spec.notice}" if spec.notice else spec.title)
    for text in generation.advice(spec, order.preset):
        console.line("advice", text)
    from app import adapters, provenance, video

    model = adapters.load(spec, models / spec.name)  # seconds, in which the lines above are already to be seen
    console.line("load", tr("{seconds:.1f} s", seconds=time.monotonic() - start))
    start = time.monotonic()
    with tqdm(total=order.preset.steps, desc=tr("steps"), file=sys.stderr, disable=None, leave=False) as bar:
        request = adapters.base.Request(picture, order.prompt, order.preset, order.seed, order.negative)
        (made,) = model.generate([request], lambda *_: bar.update()).made
    if isinstance(made, adapters.base.BrokenOutput):
        raise made
    how = provenance.of(spec, picture=order.picture, seed=order.seed, settings=order.settings())
    video.write(made.frames, output, fps=order.preset.fps, made=how)
    if made.unread:
        console.line("prompt", generation.unread_text(made.unread))
    preset = order.preset
    text = tr("{width}x{height}, {frames} frames, {steps} steps, seed {seed}, in {seconds:.1f} s",
              width=preset.width, height=preset.height, frames=preset.frames, steps=preset.steps, seed=order.seed,
              seconds=time.monotonic() - start)  # fmt: skip
    console.line("video", text)
    console.data(str(output))
