"""`warm`: a model compiled for this machine's GPU, before the first video asks for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from jingxiang import compiled, gpu, models, profiles
from jingxiang.commands.app import become
from jingxiang.compiled import ALWAYS, NEVER, NoGpu, NotWanted
from jingxiang.language import tr
from jingxiang.places import Places


def warm(places: Places, *, model: str, presets: Sequence[str], mirror: str, profile: str, as_json: bool) -> NoReturn:
    """Set up the app's environment, fetch the model, and become the app's own command. Where the app would refuse,
    nothing of that is done. Raises `NoGpu`, `NotWanted`, `UnknownName`, `UsageError`."""
    mode = compiled.mode(os.environ.get(compiled.MODE))
    if mode == NEVER:
        raise NotWanted
    found = gpu.detect()
    if mode != ALWAYS:
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
