"""The models that the app runs, each behind `base.Model`. Imports nothing heavy before one is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from jingxiang.models import FULL, ModelSpec

if TYPE_CHECKING:
    from app.adapters.base import Model

# A pipeline's name in app/models.toml -> its module here and the class in it.
ADAPTERS = {
    "i2vgen-xl": ("i2vgen_xl", "I2VGenXL"),
    "svd": ("svd", "StableVideoDiffusion"),
    "animatediff": ("animatediff", "AnimateDiff"),
}


def load(spec: ModelSpec, folder: Path, *, dtype: str = "auto", rung: str = FULL) -> Model:
    """Load a model from its folder, never from the network.

    `dtype`: fp16, bf16 or fp32; `auto` is fp16 on a CUDA GPU and fp32 on the CPU. The weights are in it, and all that
    is computed. `rung`: where they are put at first; see `ladder`. Loading two at the same time is safe: one waits.
    Raises `base.WeightsMissing` and `base.OutOfMemory`, and leaves nothing in memory then.
    """
    module, name = ADAPTERS[spec.pipeline]
    adapter = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    model: Model = adapter(spec, folder, dtype=dtype, rung=rung)
    return model
