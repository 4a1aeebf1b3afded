"""One video from one picture: the same steps for the page's worker and for `generate`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.texts import spoken, tr
from jingxiang.errors import UsageError
from jingxiang.models import ModelSpec, Preset

if TYPE_CHECKING:
    from app.pipelines import Model, OnStep

SEEDS = 1 << 32


@dataclass(frozen=True)
class Order:
    """What to make, where to put it, and in which language to speak of it."""

    model: str
    image: Path
    prompt: str
    preset_name: str
    preset: Preset
    seed: int
    output: Path
    language: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "image": str(self.image), "output": str(self.output)}

    @classmethod
    def from_json(cls, job: Mapping[str, Any]) -> Order:
        return cls(
            job["model"], Path(job["image"]), job["prompt"], job["preset_name"], Preset(**job["preset"]), job["seed"],
            Path(job["output"]), job["language"],
        )  # fmt: skip

    def settings(self) -> dict[str, object]:
        """What made the video; written into it. No paths and no names of people or machines."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "preset": self.preset_name,
            "seed": self.seed,
            **asdict(self.preset),
        }


def order(spec: ModelSpec, *, image: Path, prompt: str, preset: str, seed: int | None, output: Path) -> Order:
    """A checked order; without a seed, a random one."""
    if not prompt.strip():
        raise UsageError(tr("the prompt is empty: say in English what should move and how"))
    if seed is not None and not 0 <= seed < SEEDS:
        raise UsageError(tr("the seed must be between 0 and {last}", last=SEEDS - 1))
    chosen = secrets.randbelow(SEEDS) if seed is None else seed
    return Order(spec.name, image, prompt.strip(), preset, spec.preset(preset), chosen, output, spoken())


def run(model: Model, wanted: Order, on_step: OnStep) -> None:
    """Make the video and write it."""
    from app import picture, video
    from app.pipelines import Request

    request = Request(picture.read(wanted.image), wanted.prompt, wanted.preset, wanted.seed)
    frames = model.generate(request, on_step)
    video.write(frames, wanted.output, fps=wanted.preset.fps, settings=wanted.settings())
