"""What all commands do that end as one of the app's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jingxiang import process
from jingxiang.commands import fetch
from jingxiang.commands.setup import setup
from jingxiang.models import Catalog, ModelSpec
from jingxiang.places import Places


def become(
    places: Places,
    action: str,
    arguments: Sequence[str | Path],
    *,
    catalog: Catalog,
    spec: ModelSpec,
    mirror: str,
    profile: str,
) -> NoReturn:
    """Set up the app's environment, fetch the model, and become `python -m app ACTION`, which has our terminal and
    signals. What can be checked without that should have been.
    """
    environment = setup(places, mirror=mirror, profile=profile)
    fetch.ready(places, catalog, spec, mirror=mirror)
    os.chdir(places.root)  # `-m app` must find our package, not one in the caller's folder
    process.replace(
        [environment.python, "-m", "app", action, "--model", spec.name, "--models", places.models, *arguments]
    )
