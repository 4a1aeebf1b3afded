"""A small picture of what a video will be while it is still being made: a pixel for each latent one, without a network.

All models here have the latents of Stable Diffusion 1's VAE (that of Stable Video Diffusion has another decoder for the
same ones). Those are nearly colours: a matrix is enough to see what is being drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
# How much red, green and blue, from -1 to 1, each of the four channels is, scaled as denoisers have them; without any
# of them it is grey. As fitted to decoded pictures in
# https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204
COLOURS = np.array(
    [(0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473)], np.float32
)


def picture(latents: torch.Tensor) -> Picture | None:
    """8-bit RGB of shape (height, width, 3), of latents of shape (4, height, width). None if they are not numbers."""
    values = latents.cpu().float().numpy()
    if not np.isfinite(values).all():
        return None
    colours = np.einsum("chw,cr->hwr", values, COLOURS)
    shown: Picture = np.rint((colours / 2 + 0.5).clip(0, 1) * 255).astype(np.uint8)
    return shown


def expected(output: Any) -> torch.Tensor:
    """What a scheduler takes for the end of it all after a step, where it says so; else what it has come to."""
    end = getattr(output, "pred_original_sample", None)
    found: torch.Tensor = output.prev_sample if end is None else end
    return found
