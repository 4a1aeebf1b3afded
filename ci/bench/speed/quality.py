"""How near one video is to another one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ci.bench.speed.stock import device

if TYPE_CHECKING:
    from app.video import Frames

SAME_DB = 100.0  # what is said of videos without a difference, whose PSNR has no end


def psnr_db(made: Frames, wanted: Frames) -> float:
    """Of 8-bit RGB frames of shape (frames, height, width, 3)."""
    found = float(peak_signal_noise_ratio(_tensor(made), _tensor(wanted), data_range=1.0))
    return SAME_DB if math.isinf(found) else found


def ssim(made: Frames, wanted: Frames) -> float:
    """Likewise; 1 is the same. The mean over the frames, one at a time: it takes much memory."""
    pairs = zip(_tensor(made).split(1), _tensor(wanted).split(1), strict=True)
    each = [float(structural_similarity_index_measure(one, two, data_range=1.0)) for one, two in pairs]  # type: ignore[arg-type]
    return math.fsum(each) / len(each)


def _tensor(frames: Frames) -> torch.Tensor:
    return torch.from_numpy(frames).to(device()).permute(0, 3, 1, 2).float() / 255
