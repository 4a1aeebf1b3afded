"""`calibrate`: what a model takes of this machine, measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from jingxiang import gpu, models, process
from jingxiang.commands import fetch
from jingxiang.commands.setup import setup
from jingxiang.places import Places


def calibrate(places: Places, *, model: str, mirror: str, profile: str, as_json: bool) -> NoReturn:
    """Set up the app's environment, fetch the model, and become the app's own command."""
    catalog = models.load(places.root / "app" / "models.toml")
    spec = catalog.choose(model, gpu=bool(gpu.detect().cards))
    environment = setup(places, mirror=mirror, profile=profile)
    fetch.ready(places, catalog, spec, mirror=mirror)
    argv: list[str | Path] = [
        environment.python, "-m", "app", "calibrate", "--model", spec.name, "--models", places.models,
        *(["--json"] if as_json else []),
    ]  # fmt: skip
    os.chdir(places.root)  # `-m app` must find our package, not one in the caller's folder
    process.replace(argv)
