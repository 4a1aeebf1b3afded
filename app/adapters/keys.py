"""What compiled artifacts are for, see `jingxiang.compiled.Key`: known without compiling anything."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import diffusers
import torch

from app import defaults
from jingxiang.compiled import Key
from jingxiang.digest import canonical_json, sha256_bytes
from jingxiang.models import FULL, ModelSpec, Preset

OWN = ("kernels", "rewrites", "compiling", "compiled")  # our own modules that what is compiled depends on


def key(spec: ModelSpec, folder: Path, preset: Preset, *, dtype: str, batch: int = 1) -> Key | None:
    """Of what is compiled for these on this machine; None where nothing is: see JINGXIANG_COMPILE in the README."""
    cuda, wish = torch.cuda.is_available(), defaults.compiling()
    if wish == "never" or (wish != "always" and not cuda):
        return None
    number = dtype if dtype != "auto" else "fp16" if cuda else "fp32"
    major, minor = torch.cuda.get_device_capability() if cuda else (0, 0)
    return Key(
        spec.name, f"sm_{major}{minor}" if cuda else "cpu", torch.__version__, torch.version.cuda or "",
        _code(folder, spec.pipeline, spec.rungs[FULL].decode_chunk), preset.width, preset.height, preset.frames,
        batch, number,
    )  # fmt: skip


@functools.lru_cache
def _code(folder: Path, pipeline: str, decode_chunk: int) -> str:
    """What decides how a model is computed, and how that is compiled."""
    own = {name: Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in OWN}
    configs = {
        file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*/config.json"))
    }
    about = {"own": own, "configs": configs, "diffusers": diffusers.__version__, "pipeline": pipeline,
             "decode_chunk": decode_chunk}  # fmt: skip
    return sha256_bytes(canonical_json(about))
