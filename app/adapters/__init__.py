"""The models that the app runs, each behind `base.Model`. Imports nothing heavy before one is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from jingxiang.models import ModelSpec

if TYPE_CHECKING:
    from app.adapters.base import Model

# A pipeline's name in app/models.toml -> its module here and the class in it.
ADAPTERS = {
    "i2vgen-xl": ("i2vgen_xl", "I2VGenXL"),
    "svd": ("svd", "StableVideoDiffusion"),
    "animatediff": ("animatediff", "AnimateDiff"),
}


def load(spec: ModelSpec, folder: Path) -> Model:
    """Load a model from its folder, never from the network: fp16 on a CUDA GPU, fp32 on the CPU.

    Raises `base.WeightsMissing`.
    """
    module, name = ADAPTERS[spec.pipeline]
    adapter = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    model: Model = adapter(spec, folder)
    return model
