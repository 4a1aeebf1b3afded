"""`warm`: a model compiled for this machine's GPU, before the first video asks for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jingxiang import gpu, models, process, profiles
from jingxiang.commands import fetch
from jingxiang.commands.setup import setup
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
    environment = setup(places, mirror=mirror, profile=profile)
    fetch.ready(places, catalog, spec, mirror=mirror)
    argv: list[str | Path] = [
        environment.python, "-m", "app", "warm", "--model", spec.name, "--models", places.models,
        *(f"--preset={preset}" for preset in presets), *(["--json"] if as_json else []),
    ]  # fmt: skip
    os.chdir(places.root)  # `-m app` must find our package, not one in the caller's folder
    process.replace(argv)
