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
    from app.adapters.base import Model, OnStep

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
            **({"prompt": self.prompt} if self.prompt else {}),
            "preset": self.preset_name,
            "seed": self.seed,
            **asdict(self.preset),
        }


def order(spec: ModelSpec, *, image: Path, prompt: str, preset: str, seed: int | None, output: Path) -> Order:
    """A checked order; without a seed, a random one. What a model without a prompt is told is left out."""
    if spec.takes_prompt and not prompt.strip():
        raise UsageError(tr("the prompt is empty: say in English what should move and how"))
    if seed is not None and not 0 <= seed < SEEDS:
        raise UsageError(tr("the seed must be between 0 and {last}", last=SEEDS - 1))
    chosen = secrets.randbelow(SEEDS) if seed is None else seed
    told = prompt.strip() if spec.takes_prompt else ""
    return Order(spec.name, image, told, preset, spec.preset(preset), chosen, output, spoken())


def run(model: Model, wanted: Order, on_step: OnStep) -> str:
    """Make the video and write it. Gives the end of the prompt that the model could not read."""
    from app import picture, video
    from app.adapters.base import BrokenOutput, Request

    request = Request(picture.read(wanted.image), wanted.prompt, wanted.preset, wanted.seed)
    (made,) = model.generate([request], on_step).made
    if isinstance(made, BrokenOutput):
        raise made
    video.write(made.frames, wanted.output, fps=wanted.preset.fps, settings=wanted.settings())
    return made.unread


def advice(spec: ModelSpec, preset: Preset) -> list[str]:
    """What to say of settings that are possible, but not wise."""
    return [
        tr("{name} {value}: better from {least} to {most}", name=name, value=f"{getattr(preset, name):g}",
           least=f"{least:g}", most=f"{most:g}")
        for name, (least, most) in spec.unwise(preset).items()
    ]  # fmt: skip


def unread_text(unread: str, language: str | None = None) -> str:
    """What to say of the end of a prompt that the model could not read."""
    return tr("the prompt is too long; the model did not read: {text}", language=language, text=unread)
