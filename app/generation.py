"""What is asked for when a video is to be made, checked: the same for the page, the API and `generate`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from app.texts import spoken, tr
from jingxiang.errors import UsageError
from jingxiang.models import ModelSpec, Preset

SEEDS = 1 << 32
MOST_LETTERS = 10_000  # of a prompt; models read some hundred


@dataclass(frozen=True)
class Order:
    """What to make, and in which language to speak of it. `picture` is the SHA-256 of the file that shows it;
    `negative` says what should not be in the video.
    """

    model: str
    picture: str
    prompt: str
    preset_name: str
    preset: Preset
    seed: int
    language: str
    negative: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Order:
        return cls(**{**values, "preset": Preset(**values["preset"])})

    @property
    def lot(self) -> str:
        """The same for orders that a model can carry out at once."""
        return "/".join(str(value) for value in (self.model, *asdict(self.preset).values()))

    def settings(self) -> dict[str, object]:
        """What made the video; written into it. No paths and no names of people or machines."""
        return {
            "model": self.model,
            **({"prompt": self.prompt} if self.prompt else {}),
            **({"negative_prompt": self.negative} if self.negative else {}),
            "preset": self.preset_name,
            "seed": self.seed,
            **asdict(self.preset),
        }


def order(
    spec: ModelSpec,
    *,
    picture: str,
    prompt: str,
    preset: str,
    seed: int | None,
    changes: Mapping[str, Any] | None = None,
    negative: str = "",
) -> Order:
    """A checked order; without a seed, a random one. What a model without a prompt is told is left out.

    `changes` are settings that differ from the preset's. Raises `UsageError`.
    """
    if spec.takes_prompt and not prompt.strip():
        raise UsageError(tr("the prompt is empty: say in English what should move and how"))
    if max(len(prompt), len(negative)) > MOST_LETTERS:
        raise UsageError(tr("the prompt is longer than {most} letters", most=MOST_LETTERS))
    if seed is not None and not 0 <= seed < SEEDS:
        raise UsageError(tr("the seed must be between 0 and {last}", last=SEEDS - 1))
    chosen = secrets.randbelow(SEEDS) if seed is None else seed
    told, unwanted = (prompt.strip(), negative.strip()) if spec.takes_prompt else ("", "")
    return Order(spec.name, picture, told, preset, settings(spec, preset, changes or {}), chosen, spoken(), unwanted)


def settings(spec: ModelSpec, preset: str, changes: Mapping[str, Any]) -> Preset:
    """A preset's settings with some of them changed. Raises `UsageError` for what the model cannot make."""
    changed = replace(spec.preset(preset), **changes)
    if excess := spec.limits.excess(changed):
        raise UsageError(f"{_titles()[excess[0]]}: {excess[1]}")
    return changed


def advice(spec: ModelSpec, preset: Preset) -> list[str]:
    """What to say of settings that are possible, but not wise."""
    return [
        tr("{name} {value}: better from {least} to {most}", name=_titles()[name], value=f"{getattr(preset, name):g}",
           least=f"{least:g}", most=f"{most:g}")
        for name, (least, most) in spec.unwise(preset).items()
    ]  # fmt: skip


def unread_text(unread: str, language: str | None = None) -> str:
    """What to say of the end of a prompt that the model could not read."""
    return tr("the prompt is too long; the model did not read: {text}", language=language, text=unread)


def _titles() -> dict[str, str]:
    return {
        "width": tr("width"), "height": tr("height"), "frames": tr("frames"), "steps": tr("steps"), "fps": tr("fps"),
        "guidance": tr("guidance"),
    }  # fmt: skip
