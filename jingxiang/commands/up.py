"""`up`: from nothing to the page: environment, model, server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from jingxiang import gpu, models, ports
from jingxiang.commands.app import become
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
    options: list[str | Path] = ["--outputs", places.outputs, "--host", page.host, "--port", str(page.port)]
    if page.opens_browser:
        options.append("--open")
    if passwords is not None:
        options += ["--password-file", passwords]
    become(places, "serve", options, catalog=catalog, spec=spec, mirror=mirror, profile=profile)
