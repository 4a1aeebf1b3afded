"""`warm`: a model compiled for this machine's GPU, before the first video asks for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from jingxiang import gpu, models, profiles
from jingxiang.commands.app import become
from jingxiang.errors import UsageError
from jingxiang.language import tr
from jingxiang.places import Places

MODE = "JINGXIANG_COMPILE"  # what the app reads; `always` compiles for the CPU as well


class NoGpu(UsageError):
    """There is nothing to compile for."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            tr("compiling is for NVIDIA GPUs: {reason}", reason=reason),
            hints=(tr("do it on the machine that makes the videos"), "python3 tasks.py doctor"),
        )


def warm(places: Places, *, model: str, presets: Sequence[str], mirror: str, profile: str, as_json: bool) -> NoReturn:
    """Set up the app's environment, fetch the model, and become the app's own command. Without a GPU nothing of that is
    done. Raises `NoGpu`, `UnknownName`."""
    found = gpu.detect()
    if os.environ.get(MODE) != "always":
        if not found.cards:
            raise NoGpu(found.problem or tr("this machine has none"))
        if profile == profiles.CPU.name:
            raise NoGpu(tr("--profile cpu uses none"))
    catalog = models.load(places.root / models.FILE)
    spec = catalog.choose(model, gpu=bool(found.cards))
    for preset in presets:
        spec.preset(preset)
    wanted = [*(f"--preset={preset}" for preset in presets), *(["--json"] if as_json else [])]
    become(places, "warm", wanted, catalog=catalog, spec=spec, mirror=mirror, profile=profile)
