"""The peers: each pipeline as the documentation of diffusers loads and calls it.

But for three things, without which the same seed would give another video: they are handed the random generators that
the app hands them, what the VAE makes of the picture is its most likely value (see `app.adapters.base.without_chance`),
and those in fp32 begin with the noise of fp16: a generator gives other numbers for each dtype.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import torch
from diffusers.utils import logging
from transformers.utils import logging as hub_logging

from app import picture
from app.adapters.animatediff import SCHEDULE
from app.adapters.base import Request, without_chance
from app.adapters.steps import Bar
from ci.bench.speed.cases import Case
from jingxiang.models import ModelSpec

if TYPE_CHECKING:
    from app.video import Frames

# The ways to make a video; ours is not here.
STOCK, AUTOCAST, EAGER, OURS = "stock fp32", "autocast", "fp16 eager", "ours"
PIPELINES = {
    "i2vgen-xl": "I2VGenXLPipeline",
    "svd": "StableVideoDiffusionPipeline",
    "animatediff": "AnimateDiffSparseControlNetPipeline",
}
SVD_CHUNK = 8  # frames that are decoded at once, as its documentation has it; the other two have it as a default


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def half() -> torch.dtype:
    """What pipelines in fp16 compute in: on the CPU, which tries the benches alone, fp32."""
    return torch.float16 if device() == "cuda" else torch.float32


def opened(spec: ModelSpec, folder: Path, dtype: torch.dtype) -> Any:
    """One part after the other with `from_pretrained`, then to the GPU."""
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    if spec.pipeline == "animatediff":
        options["motion_adapter"] = diffusers.MotionAdapter.from_pretrained(str(folder / "motion_adapter"), **options)
        options["controlnet"] = diffusers.SparseControlNetModel.from_pretrained(
            str(folder / "controlnet"), dtype=dtype, local_files_only=True
        )
        options["scheduler"] = diffusers.DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler", **SCHEDULE)
    if any(folder.glob("*/*.fp16.safetensors")):
        options["variant"] = "fp16"
    pipe = getattr(diffusers, PIPELINES[spec.pipeline]).from_pretrained(str(folder), **options).to(device())
    if spec.pipeline == "i2vgen-xl" and not hasattr(pipe.text_encoder, "text_model"):
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)  # see app.adapters.i2vgen_xl
    return pipe


def can_begin(*, small: bool) -> bool:
    """Whether there is a GPU, or none is needed; libraries are silent from then on."""
    if not (torch.cuda.is_available() or small):
        sys.stderr.write("error: this bench needs a CUDA GPU; --small tries it with tiny models on any machine\n")
        return False
    for each in (logging, hub_logging):
        each.set_verbosity_error()
        each.disable_progress_bar()
    return True


def drop_caches() -> bool:
    """Whether the page cache could be emptied: that takes root, and a kernel that lets it."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def _with_noise_of_half(pipe: Any) -> None:
    module: Any = sys.modules[type(pipe).__module__]
    draw = module.randn_tensor

    def drawn(*arguments: Any, dtype: torch.dtype | None = None, **named: Any) -> torch.Tensor:
        noise: torch.Tensor = draw(*arguments, dtype=torch.float16, **named)
        return noise.to(dtype or torch.float32)

    if getattr(draw, "__name__", "") != drawn.__name__:
        module.randn_tensor = drawn


def _as_its_weights(vae: Any) -> None:
    """Let what the VAE makes of a picture have the type of its weights: AnimateDiff's pipeline puts it into a tensor of
    that type, which PyTorch refuses else.
    """
    encode = vae.encode

    def encoded(pictures: torch.Tensor) -> Any:
        made = encode(pictures)
        value = made.latent_dist.sample().to(vae.dtype)
        made.latent_dist.sample = lambda generator=None: value
        return made

    vae.encode = encoded


class Stock:
    """A loaded pipeline. `autocast`: its weights are fp32, and PyTorch computes in fp16 where it deems that right."""

    def __init__(self, case: Case, dtype: torch.dtype, *, autocast: bool = False) -> None:
        self.case = case
        self.autocast = autocast
        self.pipe = opened(case.spec, case.folder, dtype)
        self.pipe.set_progress_bar_config(disable=True)
        if dtype == torch.float32 and device() == "cuda":
            _with_noise_of_half(self.pipe)
        without_chance(self.pipe.vae)
        if autocast and case.spec.pipeline == "animatediff":
            _as_its_weights(self.pipe.vae)

    def make(self, steps: int, on_step: Callable[[], None]) -> torch.Tensor:
        """A video, to the pixels that the pipeline would give; its latents of shape (frames, channels, height / 8,
        width / 8), of which `decoded` makes a video as the app does.
        """
        request = self.case.request(steps)
        preset = request.preset
        image = picture.fit(request.image, preset.width, preset.height)
        shared = {
            "width": preset.width, "height": preset.height, "num_frames": preset.frames,
            "num_inference_steps": preset.steps, "generator": [torch.Generator().manual_seed(request.seed)],
            "output_type": "latent", **self.case.spec.parameters,
        }  # fmt: skip
        self.pipe.progress_bar = lambda total: Bar(lambda *_: on_step(), lambda: None, torch.device(device()))
        with torch.no_grad(), self._casting():
            latents: torch.Tensor = self.pipe(**self._asked(request, image), **shared).frames
            self._pixels(latents).cpu()
            synchronize()
        del self.pipe.progress_bar
        return latents[0] if self.case.spec.pipeline == "svd" else latents[0].transpose(0, 1)

    def decoded(self, latents: torch.Tensor) -> Frames:
        """As `app.adapters.base.Diffusion` does it: a decoder that looks at neighbouring frames must see the same."""
        vae, svd = self.pipe.vae, self.case.spec.pipeline == "svd"
        scaled = latents / vae.config.scaling_factor
        with torch.no_grad(), self._casting():
            parts = scaled.tensor_split(self.case.spec.memory.decode_parts(len(scaled)))
            more = [{"num_frames": len(part)} if svd else {} for part in parts]
            pixels = torch.cat(
                [vae.decode(part, **each).sample.float() for part, each in zip(parts, more, strict=True)]
            )
        frames: Frames = np.rint((pixels / 2 + 0.5).clamp(0, 1).mul(255).permute(0, 2, 3, 1).cpu().numpy())
        return frames.astype(np.uint8)

    def _asked(self, request: Request, image: Any) -> dict[str, Any]:
        preset, kind = request.preset, self.case.spec.pipeline
        if kind == "svd":
            return {"image": [image], "fps": preset.fps, "max_guidance_scale": preset.guidance}
        prompts = {"prompt": [request.prompt], "negative_prompt": [request.negative], "guidance_scale": preset.guidance}
        if kind == "i2vgen-xl":
            return {**prompts, "image": [image], "target_fps": preset.fps}
        return {**prompts, "conditioning_frames": [image], "controlnet_frame_indices": [0]}

    def _pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Decoded in the parts that the pipeline takes if nobody says anything else."""
        chunks = {"i2vgen-xl": (1,), "svd": (self.case.preset.frames, SVD_CHUNK), "animatediff": ()}
        pixels: torch.Tensor = self.pipe.decode_latents(latents, *chunks[self.case.spec.pipeline])
        return pixels

    def _casting(self) -> Any:
        return torch.autocast(device(), torch.float16) if self.autocast else contextlib.nullcontext()


class Watch:
    """Notes when it is told that a step has ended."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self._times: list[float] = []

    def __call__(self) -> None:
        self._times.append(time.monotonic())

    @property
    def step_s(self) -> float:
        """Seconds of a step, the first one left out; of so few the mean is steadier than the median."""
        return (self._times[-1] - self._times[0]) / (len(self._times) - 1)
