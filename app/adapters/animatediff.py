"""AnimateDiff: Stable Diffusion 1.5 with a motion adapter, where SparseCtrl holds the picture as the first frame.

https://github.com/guoyww/AnimateDiff, https://arxiv.org/abs/2307.04725, https://arxiv.org/abs/2311.16933
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import (
    AnimateDiffSparseControlNetPipeline,
    DPMSolverMultistepScheduler,
    MotionAdapter,
    SparseControlNetModel,
    UNetMotionModel,
)
from PIL import Image

from app.adapters.base import Diffusion, Request
from app.adapters.loading import Loading

# As https://huggingface.co/docs/diffusers/api/pipelines/animatediff has it for SparseCtrl: motion adapters were trained
# with a linear schedule, unlike Stable Diffusion itself, whose own scheduler is in the folder.
SCHEDULE = {"beta_schedule": "linear", "algorithm_type": "dpmsolver++", "use_karras_sigmas": True}


class AnimateDiff(Diffusion):
    """Its folder holds Stable Diffusion 1.5, the motion adapter in motion_adapter/ and SparseCtrl in controlnet/."""

    def _parts(self) -> Mapping[str, Any]:
        return {"motion_adapter": MotionAdapter, "controlnet": SparseControlNetModel}

    def _open(self, source: Loading) -> Any:
        networks = source.networks()
        with source.building():  # else it fills a network with random numbers on the CPU first, in fp32
            networks["unet"] = UNetMotionModel.from_unet2d(networks["unet"], networks["motion_adapter"]).eval()
        networks["motion_adapter"] = None  # its weights have been copied into the UNet
        scheduler = DPMSolverMultistepScheduler.from_pretrained(
            source.folder / "scheduler", local_files_only=True, **SCHEDULE
        )
        return source.pipeline(_PictureEach, networks, scheduler=scheduler)

    def _denoised(self, batch: Sequence[Request], images: list[Image.Image], **shared: Any) -> torch.Tensor:
        latents: torch.Tensor = self.pipe(
            prompt=[request.prompt for request in batch],
            negative_prompt=[request.negative for request in batch],
            conditioning_frames=images,
            controlnet_frame_indices=[0],
            guidance_scale=batch[0].preset.guidance,
            **shared,
        ).frames
        return latents.transpose(1, 2)

    def _expected(self, output: Any, videos: int) -> torch.Tensor:
        """Its scheduler does not give what it takes for the end, but keeps it, since dpmsolver++ goes on from there."""
        latents: torch.Tensor = self.pipe.scheduler.model_outputs[-1]
        return latents.transpose(1, 2)


class _PictureEach(AnimateDiffSparseControlNetPipeline):  # type: ignore[misc]
    """Each video of a batch has a picture of its own: the pipeline takes several pictures for several frames of all."""

    def prepare_image(self, image: list[Image.Image], *arguments: Any) -> torch.Tensor:
        """Latents of shape (videos, channels, 1, height / 8, width / 8), once more for those without guidance."""
        prepare = super().prepare_image
        latents = torch.cat([prepare([each], *arguments) for each in image])
        return torch.cat([latents, latents]) if self.do_classifier_free_guidance else latents
