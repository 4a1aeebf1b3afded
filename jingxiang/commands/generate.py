"""`generate`: one video from one picture, without the page."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from jingxiang import gpu, models
from jingxiang.commands.app import become
from jingxiang.errors import UsageError
from jingxiang.language import tr
from jingxiang.places import Places


def generate(
    places: Places,
    *,
    image: str,
    prompt: str,
    negative: str,
    out: str,
    model: str,
    preset: str,
    seed: str,
    mirror: str,
    profile: str,
) -> NoReturn:
    """Check what can be checked without the app's environment, set it up, and become the app's own command."""
    catalog = models.load(places.root / "app" / "models.toml")
    spec = catalog.choose(model, gpu=bool(gpu.detect().cards))
    spec.preset(preset)
    if spec.takes_prompt and not prompt.strip():
        raise UsageError(tr("the prompt is empty: say in English what should move and how"))
    if seed and not seed.isdigit():
        raise UsageError(tr("the seed must be a whole number, not '{seed}'", seed=seed))
    if not Path(image).is_file():
        raise UsageError(tr("{name}: no such file", name=image))
    become(
        places, "generate",
        [
            "--image", Path(image).absolute(), f"--prompt={prompt}", "--out", Path(out).absolute(), "--preset", preset,
            *([f"--negative={negative}"] if negative else []), *([f"--seed={seed}"] if seed else []),
        ],
        catalog=catalog, spec=spec, mirror=mirror, profile=profile,
    )  # fmt: skip
