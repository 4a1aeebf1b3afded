"""What is measured: each model at the size that its figures are for, or, to try the benches, tiny ones."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from app import picture, smoke
from app.adapters import loading, reading
from app.adapters.base import Request
from jingxiang import models
from jingxiang.models import ModelSpec, Preset
from tests.peers import full_models, tiny_models

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PICTURE = ROOT / "app" / "examples" / "lantern.jpg"
PROMPT = "paper lanterns sway in the evening wind"
SEED = 7
PRESETS = {
    "i2vgen-xl": Preset(512, 512, 16, steps=50, fps=8, guidance=9.0),
    "svd-xt": Preset(1024, 576, 25, steps=25, fps=7, guidance=3.0),
    "animatediff": Preset(512, 512, 16, steps=25, fps=8, guidance=7.5),
}
TINY = {
    name: Preset(64, 64, 6, steps=4, fps=8, guidance=3.0) for name in ("smoke", "svd-xt", "animatediff")
}  # the smoke model is a tiny I2VGen-XL
FEW = 6  # steps where a whole video is reckoned from some


@dataclass(frozen=True)
class Case:
    """One model with random weights in its folder, and the settings of the video."""

    spec: ModelSpec
    folder: Path
    preset: Preset

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def few(self) -> int:
        return min(FEW, self.preset.steps - 1)

    def request(self, steps: int = 0) -> Request:
        """The same picture, prompt and seed each time; in so many steps instead of all of them."""
        preset = replace(self.preset, steps=steps or self.preset.steps)
        return Request(picture.read(PICTURE), PROMPT if self.spec.takes_prompt else "", preset, SEED)


def made(folder: Path, names: Iterable[str], *, tiny: bool) -> Iterator[tuple[Case, float]]:
    """The models in that folder, and the seconds that it took to write those that were not there yet."""
    catalog = models.load(ROOT / "app" / "models.toml")
    presets = TINY if tiny else PRESETS
    for name in names:
        start = time.monotonic()
        if not (folder / name / reading.INDEX).exists():
            _write(name, folder / name, tiny=tiny)
            loading.free()
        yield Case(catalog.model(name), folder / name, presets[name]), time.monotonic() - start


def _write(name: str, folder: Path, *, tiny: bool) -> None:
    if not tiny:
        full_models.make(name, folder, "cuda" if torch.cuda.is_available() else "cpu")
        return
    {"smoke": smoke.make, "svd-xt": tiny_models.svd, "animatediff": tiny_models.animatediff}[name](folder)
