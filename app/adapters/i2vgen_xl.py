"""I2VGen-XL and everything of its shape: a picture and a prompt.

https://github.com/ali-vilab/VGen, https://arxiv.org/abs/2311.04145
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import I2VGenXLPipeline
from PIL import Image

from app.adapters import previews
from app.adapters.base import Diffusion, Request
from app.adapters.loading import Loading


class I2VGenXL(Diffusion):
    """The frames per second are known to the model: they change the video, not only its speed."""

    constant = (
        "image_latents_proj_in", "image_latents_temporal_encoder", "image_latents_context_embedding",
        "context_embedding",
    )  # fmt: skip

    def _open(self, source: Loading) -> Any:
        pipe = source.pipeline(I2VGenXLPipeline, source.networks())
        # transformers >= 5.6 has no CLIPTextModel.text_model, which the pipeline asks for (diffusers#14124). Set past
        # torch's module registry, which would see a cycle.
        if not hasattr(pipe.text_encoder, "text_model"):
            object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
        return pipe

    def _denoised(self, batch: Sequence[Request], images: list[Image.Image], **shared: Any) -> torch.Tensor:
        preset = batch[0].preset
        latents: torch.Tensor = self.pipe(
            prompt=[request.prompt for request in batch],
            negative_prompt=[request.negative for request in batch],
            image=images,
            target_fps=preset.fps,
            guidance_scale=preset.guidance,
            **shared,
        ).frames
        return latents.transpose(1, 2)

    def _expected(self, output: Any, videos: int) -> torch.Tensor:
        """For its scheduler every frame is a picture of its own, one video after the other."""
        return previews.expected(output).unflatten(0, (videos, -1))
