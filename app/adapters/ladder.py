"""Where the parts of a pipeline are while it runs: the rungs of the ladder that ends in little memory.

full     all on the device; frames are decoded several at a time
frames   as before, but decoded one at a time (which part of a model's law it is: see `models.toml`)
offload  each part is on the device only while it works, and else in the memory of the CPU
groups   each layer is on the device only while it works; but the VAE, which is small, stays there: Stable Video
         Diffusion turns it into fp32 for the picture and back, which layers that come and go do not follow
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks import HookRegistry

# The names under which diffusers registers what it hooks into modules for groups (hooks/group_offloading.py).
GROUP_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


def place(pipe: Any, rung: str, device: torch.device) -> None:
    """Bring a pipeline from whatever rung it is on to this one."""
    pipe.remove_all_hooks()
    for part in _networks(pipe):
        registry = HookRegistry.check_if_exists_or_initialize(part)
        for name in GROUP_HOOKS:
            registry.remove_hook(name, recurse=True)
    if rung == "offload":
        pipe.enable_model_cpu_offload(device=device)
        return
    home = torch.device("cpu") if rung == "groups" else device
    pipe.to(home, silence_dtype_warnings=True)  # it warns of fp16 on the CPU, where nothing is computed, or works, too
    if rung == "groups":
        streams = device.type == "cuda"
        pipe.enable_group_offload(
            onload_device=device, offload_device=home, offload_type="leaf_level",
            use_stream=streams, non_blocking=streams, exclude_modules=["vae"],
        )  # fmt: skip


def _networks(pipe: Any) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
