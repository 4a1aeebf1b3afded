"""`calibrate`: what a model takes of this machine, measured."""

from __future__ import annotations

from typing import NoReturn

from jingxiang import gpu, models
from jingxiang.commands.app import become
from jingxiang.places import Places


def calibrate(places: Places, *, model: str, mirror: str, profile: str, as_json: bool) -> NoReturn:
    """Set up the app's environment, fetch the model, and become the app's own command."""
    catalog = models.load(places.root / "app" / "models.toml")
    spec = catalog.choose(model, gpu=bool(gpu.detect().cards))
    become(
        places, "calibrate", ["--json"] if as_json else [], catalog=catalog, spec=spec, mirror=mirror, profile=profile
    )
