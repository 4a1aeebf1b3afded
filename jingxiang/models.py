"""Models that the app can run, as `app/models.toml` describes them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jingxiang import presets, tables, weights
from jingxiang.errors import UnknownName
from jingxiang.language import LANGUAGES, chosen, tr
from jingxiang.presets import NONE, SIDES, Presets, Settings, Shape
from jingxiang.tables import Table
from jingxiang.weights import Weights

FILE = "app/models.toml"
PRESETS = presets.REQUIRED
PRESETS_NAME = "presets.toml"  # beside it; what is common to all models
# Ways to run a model, each in less memory than the one before, and slower; what they are is in app/adapters/ladder.py.
RUNGS = ("full", "frames", "offload", "groups")
FULL = RUNGS[0]
GIB = 1 << 30
HALF_BYTES = 2  # a number in fp16


@dataclass(frozen=True)
class Pipeline:
    """What is to be known of a pipeline before it is loaded: whether it reads a prompt, and the names of the numbers
    that it takes besides.
    """

    prompt: bool
    parameters: tuple[str, ...] = ()


# Those that the app has an adapter for, in app/adapters.
PIPELINES = {
    "i2vgen-xl": Pipeline(prompt=True),
    "svd": Pipeline(prompt=False, parameters=("min_guidance_scale", "motion_bucket_id", "noise_aug_strength")),
    "animatediff": Pipeline(prompt=True, parameters=("controlnet_conditioning_scale",)),
}
LAW = ("weights_gib", "denoising_gib", "decoding_gib", "decode_chunk", "decoder_gib")
NEARLY = 0.75  # of the pixels that a size is named after: a model that cannot make so many does not have that size
ADVISED = ("steps", "fps", "guidance")  # settings of which some values are possible, but not wise


@dataclass(frozen=True)
class Preset:
    """Settings of one generation: pixels, frames, denoising steps, frames per second, guidance."""

    width: int
    height: int
    frames: int
    steps: int
    fps: int
    guidance: float


Span = tuple[float, float]  # the least and the most


@dataclass(frozen=True)
class Limits:
    """What a model can make: at most so many pixels, frames and steps; sides are multiples of `multiple` pixels; frames
    per second and guidance from and to.
    """

    width: int
    height: int
    multiple: int
    frames: int
    steps: int
    fps: Span
    guidance: Span

    @property
    def spans(self) -> dict[str, Span]:
        """The least and the most of each setting."""
        spans: dict[str, Span] = {name: (1, getattr(self, name)) for name in ("width", "height", "frames", "steps")}
        return {**spans, "fps": self.fps, "guidance": self.guidance}

    def excess(self, preset: Preset) -> tuple[str, str] | None:
        """The first of the settings that is out of bounds, with what it should be; None if all are in."""
        for name, (least, most) in self.spans.items():
            if not least <= getattr(preset, name) <= most:
                return name, tr("should be from {least} to {most}", least=f"{least:g}", most=f"{most:g}")
        for name in ("width", "height"):
            if getattr(preset, name) % self.multiple:
                return name, tr("should be a multiple of {number}", number=self.multiple)
        return None

    def size(self, pixels: float, ratio: float) -> tuple[int, int]:
        """Width and height that are possible, with at most so many pixels, nearest to these and to that width/height.

        The ratio counts twice as much: a picture is cut to the size, and what is cut off is lost.
        """
        return _size(self, pixels, ratio)


@functools.lru_cache(maxsize=4096)
def _size(limits: Limits, pixels: float, ratio: float) -> tuple[int, int]:
    """Kept: whoever looks for what fits asks for the same ones again and again."""
    step = limits.multiple
    found = []
    for height in range(step, limits.height + 1, step):
        fullest = int(pixels / height) // step * step
        nearest = math.floor(height * ratio / step) * step
        for width in (fullest, nearest, nearest + step):
            if step <= width <= limits.width and width * height <= pixels:
                lost = math.log(pixels / (width * height))
                found.append((2 * abs(math.log(width / height / ratio)) + lost, width, height))
    return min(found)[1:] if found else (step, step)


@dataclass(frozen=True)
class Memory:
    """What a model takes of a GPU in fp16: its weights, and for a million pixels `denoising_gib` or `decoding_gib`.

    The first counts all frames of all videos that are made at once, the second those that are decoded at once: at most
    `decode_chunk` of one video. `decoder_gib` is what is there of the weights while frames are decoded.
    """

    weights_gib: float
    denoising_gib: float
    decoding_gib: float
    decode_chunk: int
    decoder_gib: float

    def decode_parts(self, frames: int) -> int:
        """In how many parts, of equal length but for one frame, a video is decoded."""
        return math.ceil(frames / self.decode_chunk)

    def weights_bytes(self, number_bytes: int = HALF_BYTES) -> int:
        return round(self.weights_gib * GIB * number_bytes / HALF_BYTES)

    def peak_bytes(self, preset: Preset, batch: int, *, number_bytes: int = HALF_BYTES) -> int:
        """What is taken at most while `batch` videos are made at once; in fp32, with 4-byte numbers, twice as much.

        What the allocator keeps besides is not in it: it takes 1.2 to 1.9 times that in all, as measured on an H100.
        """
        frame = preset.width * preset.height / 1e6
        decoded = math.ceil(preset.frames / self.decode_parts(preset.frames))
        denoising = self.weights_gib + self.denoising_gib * frame * preset.frames * batch
        decoding = self.decoder_gib + self.decoding_gib * frame * decoded
        return round(max(denoising, decoding) * GIB * number_bytes / HALF_BYTES)


@dataclass(frozen=True)
class ModelSpec:
    """One model: who runs it, where its weights come from (None: the app makes them itself), how it is used."""

    name: str
    titles: Mapping[str, str]
    pipeline: str
    weights: Weights | None
    notices: Mapping[str, str]
    threads: int
    limits: Limits
    advice: Mapping[str, Span]
    parameters: Mapping[str, float]
    rungs: Mapping[str, Memory]
    presets: Mapping[str, Preset]

    @property
    def memory(self) -> Memory:
        """What it takes if there is enough."""
        return self.rungs[FULL]

    @property
    def title(self) -> str:
        return self.titles[chosen()]

    @property
    def notice(self) -> str:
        return self.notices[chosen()]

    @property
    def takes_prompt(self) -> bool:
        return PIPELINES[self.pipeline].prompt

    def unwise(self, preset: Preset) -> dict[str, Span]:
        """The settings that are possible, but not wise, with what is advised."""
        return {
            name: (least, most)
            for name, (least, most) in self.advice.items()
            if not least <= getattr(preset, name) <= most
        }

    def shaped(self, preset: Preset, ratio: float) -> Preset:
        """The preset for a picture of that width/height, with about as many pixels.

        Nothing does that by itself: models are at their best in the shapes that they were trained on.
        """
        width, height = self.limits.size(preset.width * preset.height, ratio)
        return replace(preset, width=width, height=height)

    def preset(self, name: str) -> Preset:
        if name not in self.presets:
            raise UnknownName("preset", name, self.presets, where=f"{FILE}: {self.name}")
        return self.presets[name]


@dataclass(frozen=True)
class Catalog:
    """All models, in the order of the file, and what is common to their presets."""

    models: Mapping[str, ModelSpec]
    presets: Presets = NONE

    def model(self, name: str) -> ModelSpec:
        if name not in self.models:
            raise UnknownName("model", name, self.models, where=FILE)
        return self.models[name]

    def sizes(self, spec: ModelSpec, preset: Preset) -> dict[str, Preset]:
        """The preset in each number of pixels that the model can make, in its shape, by names like "512p"."""
        shape = self.presets.shape(spec.pipeline)
        found = {}
        for side in SIDES:
            width, height = spec.limits.size(side**2, shape[0] / shape[1])
            if width * height >= side**2 * NEARLY:
                found[f"{side}p"] = replace(preset, width=width, height=height)
        return found

    def choose(self, name: str, *, gpu: bool) -> ModelSpec:
        """The model of that name; without a name, what the machine can run."""
        if name:
            return self.model(name)
        return self.with_gpu if gpu else self.without_gpu

    @property
    def without_gpu(self) -> ModelSpec:
        """What a machine without a CUDA GPU runs: the first model that needs no weights from outside."""
        return next(model for model in self.models.values() if model.weights is None)

    @property
    def with_gpu(self) -> ModelSpec:
        """What a machine with one runs: the first real model."""
        real = (model for model in self.models.values() if model.weights)
        return next(real, self.without_gpu)


def load(file: Path) -> Catalog:
    """The catalog of `app/models.toml`, with the presets of the file beside it, if there is one."""
    beside = file.with_name(PRESETS_NAME)
    common = presets.load(beside) if beside.exists() else NONE
    return Catalog(
        {name: _model(name, table, common) for name, table in tables.read(file, FILE).tables().items()}, common
    )


def _model(name: str, table: Table, common: Presets) -> ModelSpec:
    table.only(
        "title", "pipeline", "weights", "notice", "threads", "limits", "advice", "parameters", "memory", "presets"
    )
    pipeline = table.choice("pipeline", tuple(PIPELINES))
    limits = _limits(table.table("limits"))
    of_weights = "weights" in table.values
    names = [*PRESETS, *(name for name in common.settings if of_weights and name not in PRESETS)]
    own = table.optional("presets")
    own.only(*names)
    return ModelSpec(
        name=name,
        titles=_texts(table.table("title")),
        pipeline=pipeline,
        weights=weights.read(table.table("weights")) if of_weights else None,
        notices=_texts(table.table("notice")) if "notice" in table.values else dict.fromkeys(LANGUAGES, ""),
        threads=table.integer("threads", 0),
        limits=limits,
        advice=_advice(table.optional("advice")),
        parameters=_parameters(table.optional("parameters"), PIPELINES[pipeline].parameters),
        rungs=_rungs(table.table("memory")),
        presets={each: _preset(own.optional(each), limits, *common.of(pipeline, each)) for each in names},
    )


def _texts(table: Table) -> dict[str, str]:
    table.only(*LANGUAGES)
    return {language: table.string(language) for language in LANGUAGES}


def _limits(table: Table) -> Limits:
    table.only("width", "height", "multiple", "frames", "steps", "fps", "guidance")
    return Limits(
        width=table.integer("width"),
        height=table.integer("height"),
        multiple=table.integer("multiple"),
        frames=table.integer("frames"),
        steps=table.integer("steps"),
        fps=table.span("fps"),
        guidance=table.span("guidance"),
    )


def _advice(table: Table) -> dict[str, Span]:
    table.only(*ADVISED)
    return {name: table.span(name) for name in ADVISED if name in table.values}


def _parameters(table: Table, names: tuple[str, ...]) -> dict[str, float]:
    table.only(*names)
    return {name: table.number(name) for name in names}


def _rungs(table: Table) -> dict[str, Memory]:
    """Those that a model has, in the order of the ladder."""
    table.only(*LAW, "rungs")
    lower = table.optional("rungs")
    lower.only(*RUNGS[1:])
    full = _memory(table, {})
    return {FULL: full} | {name: _memory(lower.table(name), table.values) for name in RUNGS[1:] if name in lower.values}


def _memory(table: Table, above: Mapping[str, Any]) -> Memory:
    """`above`: the numbers of the first rung, which hold for others that do not have their own."""
    table.only(*LAW, *(() if above else ("rungs",)))
    numbers = Table(table.file, table.path, {**{name: above[name] for name in LAW if name in above}, **table.values})
    weights_gib = numbers.number("weights_gib")
    found = Memory(
        weights_gib=weights_gib,
        denoising_gib=numbers.number("denoising_gib"),
        decoding_gib=numbers.number("decoding_gib"),
        decode_chunk=numbers.integer("decode_chunk"),
        decoder_gib=numbers.number("decoder_gib", weights_gib),
    )
    if found.decode_chunk < 1:
        raise table.error("decode_chunk", tr("should be at least 1"))
    return found


def _preset(own: Table, limits: Limits, common: Settings, shape: Shape) -> Preset:
    """What the model says itself must be possible; the rest is brought to what is."""
    own.only("width", "height", "frames", "steps", "fps", "guidance")
    table = Table(own.file, own.path, {**_within(limits, common, shape), **own.values})
    preset = Preset(
        width=table.integer("width"),
        height=table.integer("height"),
        frames=table.integer("frames"),
        steps=table.integer("steps"),
        fps=table.integer("fps"),
        guidance=table.number("guidance"),
    )
    if excess := limits.excess(preset):
        raise table.error(*excess)
    return preset


def _within(limits: Limits, common: Settings, shape: Shape) -> dict[str, float]:
    """What of a common preset the model can make; empty if there is none."""
    if not common:
        return {}
    if "pixels" in common:
        pixels, ratio = common["pixels"] ** 2, shape[0] / shape[1]
    else:
        pixels, ratio = common["width"] * common["height"], common["width"] / common["height"]
    width, height = limits.size(pixels, ratio)
    return {
        "width": width,
        "height": height,
        "frames": min(common["frames"], limits.frames),
        "steps": min(common["steps"], limits.steps),
        "fps": math.floor(min(max(common["fps"], limits.fps[0]), limits.fps[1])),
        "guidance": min(max(common["guidance"], limits.guidance[0]), limits.guidance[1]),
    }
