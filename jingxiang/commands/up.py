"""`up`: from nothing to the page: environment, model, server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from jingxiang import gpu, models, ports, process
from jingxiang.commands import fetch
from jingxiang.commands.setup import setup
from jingxiang.errors import UsageError
from jingxiang.language import tr
from jingxiang.places import Places


@dataclass(frozen=True)
class Page:
    """Where the page is served. `passwords`: a file of those who may use it, empty if there is none."""

    host: str
    port: int
    passwords: str
    opens_browser: bool


def up(places: Places, *, mirror: str, model: str, profile: str, page: Page) -> NoReturn:
    """Check what was asked for, set up, and become the app, which prints READY and takes Ctrl-C itself."""
    catalog = models.load(places.root / "app" / "models.toml")
    spec = catalog.choose(model, gpu=bool(gpu.detect().cards))
    # What would else be found out after the installation is said now.
    ports.bind(page.host, page.port).close()
    passwords = Path(page.passwords).absolute() if page.passwords else None
    if passwords is not None and not os.access(passwords, os.R_OK):
        raise UsageError(tr("{file}: cannot be read", file=page.passwords))
    environment = setup(places, mirror=mirror, profile=profile)
    fetch.ready(places, catalog, spec, mirror=mirror)
    argv: list[str | Path] = [
        environment.python, "-m", "app", "serve", "--model", spec.name, "--models", places.models,
        "--outputs", places.outputs, "--host", page.host, "--port", str(page.port),
        *(["--open"] if page.opens_browser else []),
    ]  # fmt: skip
    if passwords is not None:
        argv += ["--password-file", passwords]
    os.chdir(places.root)  # `-m app` must find our package, not one in the caller's folder
    process.replace(argv)
