"""`invoke bench memory`: what app/models.toml says of memory, measured on this machine's GPU.

Full-size models of random weights, whose memory and speed are those of the real ones. For each the peak of six sizes,
of two of them also with two videos at once, and the constants of the law that fit these best, beside those that are
written down. A line of JSON on stderr for each result; with `--json` one object with all on stdout.

    --model NAME      only this one; may be repeated
    --folder FOLDER   keep the models there, and take those that are there (default: a temporary one, 5 GB for each)
    --all             also loading, against `from_pretrained`; the peak on each rung of the ladder; whether all rungs
                      give the same video; with how little of the allocator a size still runs; what happens when memory
                      runs out
    --commit HASH     what is measured, where there is no git
    --small           tiny models, on any machine, to try the bench itself
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from app import adapters
from app.adapters import loading
from app.adapters.base import Diffusion, Look, Made, OutOfMemory, Request
from app.adapters.gauge import Gauge
from ci.bench import report
from ci.bench.report import Figure
from ci.bench.speed import card, cases
from ci.bench.speed.stock import Watch, can_begin, device, drop_caches, opened
from jingxiang.models import FULL, Memory, ModelSpec, Preset

STEPS = 2
# Width, height, frames, videos at once.
Size = tuple[int, int, int, int]
SIZES: dict[str, list[Size]] = {
    "i2vgen-xl": [
        (256, 256, 8, 1), (512, 512, 16, 1), (512, 512, 24, 1), (768, 768, 16, 1), (768, 768, 24, 1),
        (1024, 1024, 16, 1), (256, 256, 8, 2), (512, 512, 16, 2),
    ],
    "svd-xt": [
        (576, 320, 14, 1), (576, 320, 25, 1), (768, 448, 25, 1), (1024, 576, 14, 1), (1024, 576, 20, 1),
        (1024, 576, 25, 1), (576, 320, 14, 2), (768, 448, 14, 2),
    ],
    "animatediff": [
        (256, 256, 8, 1), (384, 384, 16, 1), (512, 512, 16, 1), (512, 512, 24, 1), (768, 768, 16, 1), (768, 768, 24, 1),
        (256, 256, 8, 2), (512, 512, 16, 2),
    ],
}  # fmt: skip
TINY_SIZES: list[Size] = [(64, 64, 6, 1), (64, 64, 8, 1), (64, 64, 12, 1), (128, 64, 6, 1), (128, 64, 8, 1),
                          (128, 128, 8, 1), (64, 64, 6, 2), (128, 64, 6, 2)]  # fmt: skip
HEADROOM = (1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3)  # of the allocated peak, as the limit of the whole allocator
GIB = 1 << 30


@dataclass(frozen=True)
class Peaks:
    """Of one run: until the last step is done, and from then on."""

    size: Size
    denoising_gib: float
    decoding_gib: float

    @property
    def peak_gib(self) -> float:
        return max(self.denoising_gib, self.decoding_gib)


def main() -> int:
    arguments = _parser().parse_args()
    if not can_begin(small=arguments.small):
        return 1
    results: list[dict[str, Any]] = []
    laws: list[dict[str, Any]] = []
    for name in arguments.model or (cases.TINY if arguments.small else SIZES):
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as scratch:
            folder = arguments.folder or Path(scratch)
            ((case, _),) = cases.made(folder / "models", [name], tiny=arguments.small)
            sizes = TINY_SIZES if arguments.small else SIZES[name]
            for key, value in measured(case.spec, case.folder, sizes, every=arguments.all):
                sys.stderr.write(json.dumps({name: {key: value}}) + "\n")
                (laws if key == "law" else results).append(value if key == "law" else {"model": name, key: value})
    worst = max(law["written_error_gib"] for law in laws)
    figures = [Figure("law_error_gib", worst, "GiB", None, peers={law["model"]: law["error_gib"] for law in laws})]
    notes = ["law_error_gib: of the constants in app/models.toml; beside it, of those that fit best"]
    report.show("memory", figures, notes, machine=card.card(arguments.commit), laws=laws, results=results)
    return 0


def measured(spec: ModelSpec, folder: Path, sizes: list[Size], *, every: bool) -> Iterator[tuple[str, Any]]:
    """Names and what was found. `every`: also what is not needed for the law."""
    if every:
        yield "loading_s", loading_times(spec, folder)
    gauge = Gauge(torch.device(device()))
    model = adapters.load(spec, folder)
    assert isinstance(model, Diffusion)
    yield "weights_gib", round(gauge.held_bytes() / GIB, 3)
    found = []
    for size in sizes:
        loading.free()
        peaks, more = run(model, gauge, FULL, size)
        found.append(peaks)
        yield "run", {"rung": FULL, "size": size, **more}
    yield "law", law(spec, found)
    if every:
        yield from lower_rungs(model, gauge, sizes)
        yield "headroom", headroom(model, sizes[1])
        yield "retry", retry(model, sizes[1])
    model.close()
    yield "after_close_gib", round(gauge.held_bytes() / GIB, 3)


def law(spec: ModelSpec, found: list[Peaks]) -> dict[str, Any]:
    """The constants that fit best, by least squares: first those of denoising, then that of decoding on top of the
    weights. See `jingxiang.models.Memory`, whose constants are in it, too.
    """
    pixels = np.array([size[0] * size[1] / 1e6 for size in (each.size for each in found)])
    frames = np.array([each.size[2] * each.size[3] for each in found])
    chunks = np.array([math.ceil(each.size[2] / spec.memory.decode_parts(each.size[2])) for each in found])
    denoising = np.array([each.denoising_gib for each in found])
    decoding = np.array([each.decoding_gib for each in found])
    (weights, slope), *_ = np.linalg.lstsq(np.stack([np.ones(len(found)), pixels * frames], axis=1), denoising)
    (decoded,), *_ = np.linalg.lstsq((pixels * chunks)[:, None], decoding - weights)
    fitted = {"weights_gib": weights, "denoising_gib": slope, "decoding_gib": decoded}
    best = replace(spec.memory, **fitted, decoder_gib=weights)
    names = ("weights_gib", "denoising_gib", "decoding_gib")
    return {
        "model": spec.name,
        "fitted": {name: round(float(fitted[name]), 3) for name in names},
        "written": {name: getattr(spec.memory, name) for name in names},
        "error_gib": _error(best, found),
        "written_error_gib": _error(spec.memory, found),
    }


def _error(memory: Memory, found: list[Peaks]) -> float:
    """The largest difference between what a law says in fp16 and what was measured."""
    wrong = (abs(memory.peak_bytes(preset(each.size), each.size[3]) / GIB - each.peak_gib) for each in found)
    return round(float(max(wrong)), 3)


def lower_rungs(model: Diffusion, gauge: Gauge, sizes: list[Size]) -> Iterator[tuple[str, Any]]:
    """Peaks on the rungs below the first, and how much their videos differ from its video."""
    videos: dict[str, Any] = {}
    for rung in model.spec.rungs:
        for size in sizes if rung != FULL else ():
            loading.free()
            yield "run", {"rung": rung, "size": size, **run(model, gauge, rung, size)[1]}
        made = model.generate([request(model.spec, sizes[0])], ignore, rung).made[0]
        videos[rung] = made.frames if isinstance(made, Made) else str(made)
    whole = videos[FULL]
    yield (
        "differences",
        {
            rung: int(np.abs(video.astype(int) - whole).max()) if isinstance(video, np.ndarray) else video
            for rung, video in videos.items()
        },
    )


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
    return opened(spec, folder, torch.float16)


def parallel(spec: ModelSpec, folder: Path) -> Any:
    return adapters.load(spec, folder)


def run(model: Diffusion, gauge: Gauge, rung: str, size: Size) -> tuple[Peaks, dict[str, Any]]:
    watch, denoising = Watch(), 0

    def on_step(done: int, of: int, look: Look) -> None:
        nonlocal denoising
        watch()
        if done == of:
            denoising = gauge.peak_bytes()
            gauge.start()

    outcome = model.generate([request(model.spec, size)] * size[3], on_step, rung)
    peaks = Peaks(size, denoising / GIB, gauge.peak_bytes() / GIB)
    return peaks, {
        "rung_used": outcome.rung, "denoising_gib": round(peaks.denoising_gib, 3),
        "decoding_gib": round(peaks.decoding_gib, 3), "s": round(outcome.seconds, 3), "step_s": round(watch.step_s, 4),
        "law_gib": round(model.estimate(preset(size), size[3], rung) / GIB, 3),
    }  # fmt: skip


def headroom(model: Diffusion, size: Size) -> dict[str, Any]:
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


def retry(model: Diffusion, size: Size) -> dict[str, Any]:
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


def preset(size: Size) -> Preset:
    width, height, frames, _ = size
    return Preset(width, height, frames, steps=STEPS, fps=8, guidance=3.0)


def request(spec: ModelSpec, size: Size) -> Request:
    picture = Image.radial_gradient("L").resize(size[:2]).convert("RGB")
    return Request(picture, "a cat" if spec.takes_prompt else "", preset(size), seed=7)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench memory", description="memory and loading on a GPU")
    parser.add_argument("--model", action="append", choices=[*SIZES, "smoke"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--commit", default="")
    for name in ("json", "all", "small"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


def ignore(done: int, of: int, look: Look) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
