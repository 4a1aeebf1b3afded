"""The models behind one protocol. Imports torch and diffusers: only what runs a model imports this."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import I2VGenXLPipeline
from diffusers.utils import logging
from PIL import Image

from app import picture
from app.texts import tr
from app.video import Frames
from jingxiang.errors import JingxiangError
from jingxiang.models import ModelSpec, Preset

# Called after each denoising step with the steps done and their number; may raise to stop.
OnStep = Callable[[int, int], None]
DECODE_CHUNK = 4  # frames decoded at once: as fast as all together, at a fraction of the memory


@dataclass(frozen=True)
class Request:
    """One video to make. The seed decides everything that is random."""

    image: Image.Image
    prompt: str
    preset: Preset
    seed: int


class Model(Protocol):
    """A loaded model."""

    def generate(self, request: Request, on_step: OnStep) -> Frames:
        """Frames of shape (frames, height, width, 3), 8-bit RGB."""


class WeightsMissing(JingxiangError):
    """The folder does not hold the model."""

    def __init__(self, folder: Path, reason: object) -> None:
        super().__init__(
            tr("{folder} does not hold a model that can be loaded: {reason}", folder=folder, reason=reason)
        )


class BrokenOutput(JingxiangError):
    """The model computed numbers that are no picture."""

    def __init__(self) -> None:
        super().__init__(tr("the model gave no picture (not a number); try another seed or fewer steps"))


class _Stepping(I2VGenXLPipeline):  # type: ignore[misc]
    """I2VGenXLPipeline has no step callback, but it moves a progress bar once a step: that bar is ours."""

    on_step: OnStep

    @contextlib.contextmanager
    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Iterator[Any]:
        yield _Bar(self.on_step, total or 0)


class _Bar:
    def __init__(self, on_step: OnStep, total: int) -> None:
        self.on_step, self.total, self.done = on_step, total, 0

    def update(self, count: int = 1) -> None:
        self.done += count
        self.on_step(self.done, self.total)


class I2VGenXL:
    """I2VGen-XL and everything of its shape."""

    def __init__(self, folder: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        try:
            half = "fp16" if any(folder.glob("*/*.fp16.safetensors")) else None  # half the bytes to fetch and to read
            pipe = _Stepping.from_pretrained(
                str(folder), dtype=dtype, variant=half, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # diffusers raises nearly anything for a folder that is not whole
            reason = (str(error).splitlines() or [""])[0]
            raise WeightsMissing(folder, f"{type(error).__name__}: {reason}") from error
        # transformers >= 5.6 has no CLIPTextModel.text_model, which the pipeline asks for (diffusers#14124). Set past
        # torch's module registry, which would see a cycle.
        if not hasattr(pipe.text_encoder, "text_model"):
            object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
        self.pipe = pipe.to(self.device)

    def generate(self, request: Request, on_step: OnStep) -> Frames:
        preset = request.preset
        self.pipe.on_step = on_step
        # The pipeline's image latents are drawn from the global generator, whatever generator it is given: without
        # this seed, equal requests would give different videos.
        with torch.random.fork_rng(devices=[0] if self.device.type == "cuda" else []):
            torch.manual_seed(request.seed)
            video = self.pipe(
                prompt=request.prompt,
                image=picture.fit(request.image, preset.width, preset.height),
                width=preset.width,
                height=preset.height,
                num_frames=preset.frames,
                num_inference_steps=preset.steps,
                target_fps=preset.fps,
                guidance_scale=preset.guidance,
                decode_chunk_size=DECODE_CHUNK,
                generator=torch.Generator().manual_seed(request.seed),
                output_type="np",
            ).frames[0]
        if not np.isfinite(video).all():
            raise BrokenOutput
        frames: Frames = (video * 255).round().astype(np.uint8)
        return frames


ADAPTERS: dict[str, Callable[[Path], Model]] = {"i2vgen-xl": I2VGenXL}


def load(spec: ModelSpec, folder: Path) -> Model:
    """Load a model from its folder, never from the network: fp16 on a CUDA GPU, fp32 on the CPU."""
    logging.disable_progress_bar()
    if spec.threads:
        torch.set_num_threads(spec.threads)
    return ADAPTERS[spec.pipeline](folder)
