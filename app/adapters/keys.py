"""What compiled artifacts are for, see `jingxiang.compiled.Key`: known without compiling anything."""

from __future__ import annotations

import functools
import json
import platform
from pathlib import Path

import diffusers
import torch

from app import defaults
from jingxiang.compiled import ALWAYS, NEVER, Key
from jingxiang.digest import canonical_json, sha256_bytes
from jingxiang.models import FULL, ModelSpec, Preset

OWN = ("kernels", "rewrites", "twins", "compiling", "compiled")  # our own modules that what is compiled depends on
GUIDED = 1.0  # with no more guidance than that, a network sees each video once, not with and without its prompt


def key(spec: ModelSpec, folder: Path, preset: Preset, *, dtype: str) -> Key | None:
    """Of what is compiled for one video on this machine; None where nothing is: see JINGXIANG_COMPILE in the README."""
    cuda, wish = torch.cuda.is_available(), defaults.compiling()
    if wish == NEVER or (wish != ALWAYS and not cuda):
        return None
    number = dtype if dtype != "auto" else "fp16" if cuda else "fp32"
    return Key(
        spec.name, _architecture(), torch.__version__, torch.version.cuda or "",
        _code(folder, spec.pipeline, spec.rungs[FULL].decode_chunk), preset.width, preset.height, preset.frames, number,
    )  # fmt: skip


def is_guided(preset: Preset) -> bool:
    """Whether a video is one that models are compiled for: as all pipelines see it."""
    return preset.guidance > GUIDED


def _architecture() -> str:
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return f"sm_{major}{minor}"
    return f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability().lower()}"


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
