"""Models that the app can run, as `app/models.toml` describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jingxiang import tables, weights
from jingxiang.errors import UnknownName, UsageError
from jingxiang.language import LANGUAGES, chosen, tr
from jingxiang.tables import Table
from jingxiang.weights import Weights

FILE = "app/models.toml"
PRESETS = ("standard", "fast")
PIPELINES = ("i2vgen-xl", "svd", "animatediff")
RUNS = ("i2vgen-xl",)  # those that the app has an adapter for


@dataclass(frozen=True)
class Preset:
    """Settings of one generation: pixels, frames, denoising steps, frames per second, prompt guidance."""

    width: int
    height: int
    frames: int
    steps: int
    fps: int
    guidance: float


@dataclass(frozen=True)
class Limits:
    """What a model can make: at most so many pixels, frames and steps; sides are multiples of `multiple` pixels."""

    width: int
    height: int
    multiple: int
    frames: int
    steps: int

    def excess(self, preset: Preset) -> tuple[str, str] | None:
        """The first of the settings that is out of bounds, with what it should be; None if all are in."""
        for name in ("width", "height", "frames", "steps"):
            if not 1 <= getattr(preset, name) <= getattr(self, name):
                return name, tr("should be from 1 to {most}", most=getattr(self, name))
        for name in ("width", "height"):
            if getattr(preset, name) % self.multiple:
                return name, tr("should be a multiple of {number}", number=self.multiple)
        return None


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
    presets: Mapping[str, Preset]

    @property
    def title(self) -> str:
        return self.titles[chosen()]

    @property
    def notice(self) -> str:
        return self.notices[chosen()]

    def check_runnable(self) -> None:
        """Raise `UsageError` if the app has no adapter for it yet."""
        if self.pipeline not in RUNS:
            text = tr("{model}: can be fetched, but the app cannot run it yet; it can run {names}", model=self.name,
                      names=", ".join(RUNS))  # fmt: skip
            raise UsageError(text)

    def preset(self, name: str) -> Preset:
        if name not in self.presets:
            raise UnknownName("preset", name, self.presets, where=f"{FILE}: {self.name}")
        return self.presets[name]


@dataclass(frozen=True)
class Catalog:
    """All models, in the order of the file."""

    models: Mapping[str, ModelSpec]

    def model(self, name: str) -> ModelSpec:
        if name not in self.models:
            raise UnknownName("model", name, self.models, where=FILE)
        return self.models[name]

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
        """What a machine with one runs: the first real model that the app can run."""
        real = (model for model in self.models.values() if model.weights and model.pipeline in RUNS)
        return next(real, self.without_gpu)


def load(file: Path) -> Catalog:
    """The catalog of `app/models.toml`."""
    return Catalog({name: _model(name, table) for name, table in tables.read(file, FILE).tables().items()})


def _model(name: str, table: Table) -> ModelSpec:
    table.only("title", "pipeline", "weights", "notice", "threads", "limits", "presets")
    limits, presets = _limits(table.table("limits")), table.table("presets")
    presets.only(*PRESETS)
    return ModelSpec(
        name=name,
        titles=_texts(table.table("title")),
        pipeline=table.choice("pipeline", PIPELINES),
        weights=weights.read(table.table("weights")) if "weights" in table.values else None,
        notices=_texts(table.table("notice")) if "notice" in table.values else dict.fromkeys(LANGUAGES, ""),
        threads=table.integer("threads", 0),
        limits=limits,
        presets={preset: _preset(presets.table(preset), limits) for preset in PRESETS},
    )


def _texts(table: Table) -> dict[str, str]:
    table.only(*LANGUAGES)
    return {language: table.string(language) for language in LANGUAGES}


def _limits(table: Table) -> Limits:
    table.only("width", "height", "multiple", "frames", "steps")
    return Limits(*(table.integer(name) for name in ("width", "height", "multiple", "frames", "steps")))


def _preset(table: Table, limits: Limits) -> Preset:
    table.only("width", "height", "frames", "steps", "fps", "guidance")
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
