"""`invoke bench memory`: what app/models.toml says of memory, measured on this machine's GPU.

Full-size models of random weights, whose memory and speed are those of the real ones. For each: loading, against
`from_pretrained`; the peak on each rung of the ladder for several sizes; whether all rungs give the same video; with
how little of the allocator a size still runs; what happens when memory runs out; what is left after `close`. They are
written to a temporary folder (5 GB) and removed again. A line of JSON on stderr for each result; with `--json` one
object with all on stdout. `--model NAME`: only this one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image
from transformers.utils import logging as hub_logging

from app import adapters
from app.adapters import loading
from app.adapters.base import Diffusion, Look, Made, OutOfMemory, Request
from jingxiang import models
from jingxiang.models import FULL, ModelSpec, Preset
from tests.peers import full_models

ROOT = Path(__file__).resolve().parent.parent.parent
PIPELINES = {
    "i2vgen-xl": "I2VGenXLPipeline",
    "svd": "StableVideoDiffusionPipeline",
    "animatediff": "AnimateDiffSparseControlNetPipeline",
}
STEPS = 3
# Width, height, frames, videos at once.
SIZES = {
    "i2vgen-xl": [(256, 256, 8, 1), (512, 512, 16, 1), (768, 768, 24, 1), (512, 512, 16, 2)],
    "svd-xt": [(576, 320, 14, 1), (1024, 576, 14, 1), (1024, 576, 25, 1), (576, 320, 14, 2)],
    "animatediff": [(256, 256, 8, 1), (512, 512, 16, 1), (768, 768, 16, 1), (512, 512, 16, 2)],
}
HEADROOM = (1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3)  # of the allocated peak, as the limit of the whole allocator
GIB = 1 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description="memory and loading on a GPU")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", choices=SIZES)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("error: this bench needs a CUDA GPU\n")
        return 1
    for each in (logging, hub_logging):
        each.set_verbosity_error()
        each.disable_progress_bar()
    catalog = models.load(ROOT / "app" / "models.toml")
    every: dict[str, list[dict[str, Any]]] = {}
    for name in [arguments.model] if arguments.model else SIZES:
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
            full_models.make(name, Path(folder) / name, "cuda")
            loading.free()
            for key, value in measured(catalog.model(name), Path(folder) / name):
                sys.stderr.write(json.dumps({name: {key: value}}) + "\n")
                every.setdefault(name, []).append({key: value})
    if arguments.json:
        sys.stdout.write(json.dumps(every) + "\n")
    return 0


def measured(spec: ModelSpec, folder: Path) -> Iterator[tuple[str, Any]]:
    yield "card", torch.cuda.get_device_name()
    yield "loading_s", loading_times(spec, folder)
    before = torch.cuda.memory_allocated()
    model = adapters.load(spec, folder)
    assert isinstance(model, Diffusion)
    yield "weights_bytes", torch.cuda.memory_allocated() - before
    videos: dict[str, Any] = {}
    for rung in spec.rungs:
        for size in SIZES[spec.name]:
            loading.free()
            yield "run", {"rung": rung, "size": size, **run(model, rung, size)}
        made = model.generate([request(spec, SIZES[spec.name][0])], ignore, rung).made[0]
        videos[rung] = made.frames if isinstance(made, Made) else str(made)
    whole = videos[FULL]
    yield (
        "differences",
        {
            rung: int(np.abs(video.astype(int) - whole).max()) if isinstance(video, np.ndarray) else video
            for rung, video in videos.items()
        },
    )
    yield "headroom", headroom(model, SIZES[spec.name][1])
    yield "retry", retry(model, SIZES[spec.name][1])
    model.close()
    yield "after_close", {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved()}


def loading_times(spec: ModelSpec, folder: Path) -> dict[str, list[float]]:
    """One part after the other with from_pretrained, then to the GPU; and ours. Cold: the files are in no cache."""
    found: dict[str, list[float]] = {}
    ways = {"sequential": sequential, "parallel": parallel}
    for cold in (False, False, True, True):
        for name, way in ways.items():
            if cold and not drop_caches():
                continue
            start = time.monotonic()
            loaded = way(spec, folder)
            torch.cuda.synchronize()
            found.setdefault(f"{name}_{'cold' if cold else 'warm'}", []).append(round(time.monotonic() - start, 2))
            del loaded
            loading.free()
    return found


def sequential(spec: ModelSpec, folder: Path) -> Any:
    """As the documentation of diffusers has it."""
    options = {"dtype": torch.float16, "local_files_only": True}
    if spec.pipeline == "animatediff":
        options["motion_adapter"] = diffusers.MotionAdapter.from_pretrained(str(folder / "motion_adapter"), **options)
        options["controlnet"] = diffusers.SparseControlNetModel.from_pretrained(str(folder / "controlnet"), **options)
    kind = getattr(diffusers, PIPELINES[spec.pipeline])
    return kind.from_pretrained(str(folder), variant="fp16", **options).to("cuda")


def parallel(spec: ModelSpec, folder: Path) -> Any:
    return adapters.load(spec, folder)


def drop_caches() -> bool:
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def run(model: Diffusion, rung: str, size: tuple[int, int, int, int]) -> dict[str, Any]:
    times = [time.monotonic()]

    def on_step(done: int, of: int, look: Look) -> None:
        torch.cuda.synchronize()
        times.append(time.monotonic())

    torch.cuda.reset_peak_memory_stats()
    outcome = model.generate([request(model.spec, size)] * size[3], on_step, rung)
    free, total = torch.cuda.mem_get_info()
    return {
        "rung_used": outcome.rung, "peak_gib": round(outcome.peak_bytes / GIB, 3), "s": round(outcome.seconds, 3),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3), "step_s": round(times[-1] - times[-2], 4),
        "ctx_gib": round((total - free - torch.cuda.memory_reserved()) / GIB, 3),
        "law_gib": round(model.estimate(preset(size), size[3], rung) / GIB, 3),
    }  # fmt: skip


def headroom(model: Diffusion, size: tuple[int, int, int, int]) -> dict[str, Any]:
    """With which limits of the allocator a size still runs, in parts of its allocated peak."""
    found: dict[str, Any] = {}
    for rung in (FULL, "offload", "groups"):
        loading.free()
        peak = model.generate([request(model.spec, size)], ignore, rung).peak_bytes
        for part in HEADROOM:
            model.use(rung)
            loading.free()
            with limit(peak * part):
                try:
                    outcome = model.generate([request(model.spec, size)], ignore, rung)
                    found[f"{rung} {part}"] = outcome.rung
                except OutOfMemory as error:
                    found[f"{rung} {part}"] = str(error)
    return found


def retry(model: Diffusion, size: tuple[int, int, int, int]) -> dict[str, Any]:
    """Memory for the rung `offload` but not for the ones above, then for none, then enough again."""
    rungs = list(model.spec.rungs)
    above = rungs[rungs.index("offload") - 1]
    peak = model.generate([request(model.spec, size)], ignore, "offload").peak_bytes
    model.use(above)
    found: dict[str, Any] = {}
    with limit(peak * 1.15):
        outcome = model.generate([request(model.spec, size)], ignore, above)
        found["once"] = [outcome.retried_from, outcome.rung, round(outcome.peak_bytes / GIB, 3)]
    with limit(GIB):
        try:
            model.generate([request(model.spec, size)], ignore, "offload")
        except OutOfMemory as error:
            found["twice"] = str(error)
            found["held_gib_after"] = round(torch.cuda.memory_reserved() / GIB, 3)
    outcome = model.generate([request(model.spec, size)], ignore, FULL)
    found["again"] = outcome.rung
    return found


@contextlib.contextmanager
def limit(size_bytes: float) -> Iterator[None]:
    """Let PyTorch's allocator have no more than so many bytes."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, size_bytes / torch.cuda.mem_get_info()[1]))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def preset(size: tuple[int, int, int, int]) -> Preset:
    width, height, frames, _ = size
    return Preset(width, height, frames, steps=STEPS, fps=8, guidance=3.0)


def request(spec: ModelSpec, size: tuple[int, int, int, int]) -> Request:
    picture = Image.radial_gradient("L").resize(size[:2]).convert("RGB")
    return Request(picture, "a cat" if spec.takes_prompt else "", preset(size), seed=7)


def ignore(done: int, of: int, look: Look) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
