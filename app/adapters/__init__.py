"""The models that the app runs, each behind `base.Model`. Imports nothing heavy before one is loaded."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app import garbage, logs
from jingxiang.models import FULL, ModelSpec

if TYPE_CHECKING:
    from app.adapters.base import Model

# A pipeline's name in app/models.toml -> its module here and the class in it.
ADAPTERS = {
    "i2vgen-xl": ("i2vgen_xl", "I2VGenXL"),
    "svd": ("svd", "StableVideoDiffusion"),
    "animatediff": ("animatediff", "AnimateDiff"),
}


if sys.platform == "linux":
    # Read when torch first asks for memory of a GPU. With it 1.02 times what is in use at most is enough for the
    # allocator (512x512, 16 frames), else 1.15 times, since what it kept for one size does not serve another.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def import_torch() -> None:
    """It takes a second, in which others do something else. What is wrong with it is said by whoever loads a model; but
    torch may say something else the second time.
    """
    try:
        with garbage.put_off():
            importlib.import_module("torch")
    except Exception as error:  # a library of the system is missing, or a file is damaged
        logs.event(logs.TROUBLE, error=error)


def load(spec: ModelSpec, folder: Path, *, dtype: str = "auto", rung: str = FULL) -> Model:
    """Load a model from its folder, never from the network.

    `dtype`: fp16, bf16 or fp32; `auto` is fp16 on a CUDA GPU and fp32 on the CPU. The weights are in it, and all that
    is computed. `rung`: where they are put at first; see `ladder`. Loading two at the same time is safe: one waits.
    Raises `base.WeightsMissing` and `base.OutOfMemory`, and leaves nothing in memory then.
    """
    with garbage.put_off():
        from app.adapters.reading import Reading

    module, name = ADAPTERS[spec.pipeline]
    with Reading(folder, dtype=dtype, rung=rung) as read:
        with garbage.put_off():
            adapter = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        logs.event(logs.REACHED, model=spec.name, phase="imported")
        model: Model = adapter(spec, read, rung=rung)
    logs.event(logs.REACHED, model=spec.name, phase="built")
    return model
