"""Stable Video Diffusion: a picture alone.

https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt, https://arxiv.org/abs/2311.15127
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from app.adapters import previews
from app.adapters.base import Diffusion, Request
from app.adapters.loading import Loading


class StableVideoDiffusion(Diffusion):
    """Guidance grows from `min_guidance_scale` at the first frame to the preset's at the last one."""

    def _open(self, source: Loading) -> Any:
        return source.pipeline(StableVideoDiffusionPipeline, source.networks())

    def _denoised(self, batch: Sequence[Request], images: list[Image.Image], **shared: Any) -> torch.Tensor:
        preset = batch[0].preset
        latents: torch.Tensor = self.pipe(
            image=images, fps=preset.fps, max_guidance_scale=preset.guidance, **shared
        ).frames
        return latents

    def _expected(self, output: Any, videos: int) -> torch.Tensor:
        return previews.expected(output)

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """This decoder looks at neighbouring frames, so it must know which belong together: all that it is given."""
        pixels: torch.Tensor = self.pipe.vae.decode(latents, num_frames=len(latents)).sample
        return pixels
