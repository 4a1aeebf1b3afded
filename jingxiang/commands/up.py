"""`up`: from nothing to the page: environment, model, server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from jingxiang import gpu, models, ports, process
from jingxiang.commands import fetch
from jingxiang.commands.setup import setup
from jingxiang.places import Places


def up(places: Places, *, mirror: str, model: str, profile: str, host: str, port: int, open_browser: bool) -> NoReturn:
    """Check what was asked for, set up, and become the app, which prints READY and takes Ctrl-C itself."""
    catalog = models.load(places.root / "app" / "models.toml")
    spec = catalog.choose(model, gpu=bool(gpu.detect().cards))
    ports.bind(host, port).close()  # say now what would else be found out after the installation
    environment = setup(places, mirror=mirror, profile=profile)
    fetch.ready(places, catalog, spec, mirror=mirror)
    argv: list[str | Path] = [
        environment.python, "-m", "app", "serve", "--model", spec.name, "--models", places.models,
        "--outputs", places.outputs, "--host", host, "--port", str(port), *(["--open"] if open_browser else []),
    ]  # fmt: skip
    os.chdir(places.root)  # `-m app` must find our package, not one in the caller's folder
    process.replace(argv)
