"""What all models have in common. Imports torch and diffusers: only what runs a model imports this."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image

from app import picture
from app.texts import tr
from app.video import Frames
from jingxiang.errors import JingxiangError
from jingxiang.models import Limits, ModelSpec, Preset

# Called after each denoising step with the steps done and their number; may raise to stop.
OnStep = Callable[[int, int], None]
BLACK = 8  # of 255; a picture without a brighter pixel looks black


@dataclass(frozen=True)
class Request:
    """One video to make. The seed decides everything that is random. A model without a prompt does not read it."""

    image: Image.Image
    prompt: str
    preset: Preset
    seed: int


@dataclass(frozen=True)
class Made:
    """One video: frames of shape (frames, height, width, 3), 8-bit RGB.

    `unread` is the end of the prompt, if that is too long for the model.
    """

    frames: Frames
    unread: str = ""


class WeightsMissing(JingxiangError):
    """The folder does not hold the model."""

    def __init__(self, folder: Path, reason: object) -> None:
        super().__init__(
            tr("{folder} does not hold a model that can be loaded: {reason}", folder=folder, reason=reason)
        )


class BrokenOutput(JingxiangError):
    """The model computed numbers that are no picture, or one that is all black."""

    def __init__(self, reason: str) -> None:
        super().__init__(tr("the model gave no picture ({reason}); try another seed or fewer steps", reason=reason))


class Model(Protocol):
    """A loaded model."""

    @property
    def limits(self) -> Limits:
        """What it can make."""

    def close(self) -> None: ...

    def estimate(self, preset: Preset, batch: int) -> int:
        """Bytes that it takes at most, weights included, while it makes so many videos at once."""

    def generate(self, batch: Sequence[Request], on_step: OnStep) -> list[Made | BrokenOutput]:
        """A video for each request; all have the same preset. One that is broken does not break the others.

        What `on_step` raises stops it within a step, and the model can be used again.
        """


class Diffusion(abc.ABC):
    """A model that is a pipeline of diffusers. A subclass says how that is loaded and how it is called.

    In a batch each video has a random generator of its own and is decoded by itself, so that it is the same as if it
    were made alone, but for the last digits: arithmetic on larger matrices adds up in another order.
    """

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        logging.disable_progress_bar()
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        try:
            self.pipe = self._open(folder).to(self.device)
        except Exception as error:  # diffusers raises nearly anything for a folder that is not whole
            reason = (str(error).splitlines() or [""])[0]
            raise WeightsMissing(folder, f"{type(error).__name__}: {reason}") from error
        _without_chance(self.pipe.vae)

    def close(self) -> None:
        del self.pipe

    @abc.abstractmethod
    def _open(self, folder: Path) -> Any:
        """The pipeline, on the CPU. May raise anything."""

    @abc.abstractmethod
    def _denoised(self, batch: Sequence[Request], images: list[Image.Image], **shared: Any) -> torch.Tensor:
        """Latents of shape (videos, frames, channels, height / 8, width / 8). `shared` is what every pipeline takes."""

    @property
    def limits(self) -> Limits:
        return self.spec.limits

    def estimate(self, preset: Preset, batch: int) -> int:
        return self.spec.memory.peak_bytes(preset, batch, number_bytes=self.dtype.itemsize)

    def generate(self, batch: Sequence[Request], on_step: OnStep) -> list[Made | BrokenOutput]:
        preset = batch[0].preset
        if any(request.preset != preset for request in batch):
            raise ValueError("the requests of a batch have different presets")
        images = [picture.fit(request.image, preset.width, preset.height) for request in batch]
        with _steps_to(on_step, self.pipe), torch.no_grad():
            latents = self._denoised(
                batch,
                images,
                width=preset.width,
                height=preset.height,
                num_frames=preset.frames,
                num_inference_steps=preset.steps,
                generator=[torch.Generator().manual_seed(request.seed) for request in batch],
                output_type="latent",
                **self.spec.parameters,
            )
            return [self._made(*each) for each in zip(batch, images, latents, strict=True)]

    def _load(self, kind: Any, folder: Path, **arguments: Any) -> Any:
        """A pipeline or a part of one from its folder: no network, no pickles, and weights in fp16 where they are."""
        half = [*folder.glob("*.fp16.safetensors"), *folder.glob("unet/*.fp16.safetensors")]
        return kind.from_pretrained(
            str(folder), dtype=self.dtype, variant="fp16" if half else None, local_files_only=True,
            use_safetensors=True, **arguments,
        )  # fmt: skip

    def _made(self, request: Request, image: Image.Image, latents: torch.Tensor) -> Made | BrokenOutput:
        pixels = self._pixels(latents)
        if not pixels.isfinite().all():
            return BrokenOutput(tr("not a number"))
        frames: Frames = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        if frames.max() < BLACK <= np.asarray(image).max():
            return BrokenOutput(tr("all black"))
        return Made(frames, self._unread(request.prompt))

    def _pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """One video decoded, in parts of nearly equal length: shape (frames, 3, height, width), from -1 to 1, fp32."""
        scaled = latents / self.pipe.vae.config.scaling_factor
        parts = scaled.tensor_split(self.spec.memory.decode_parts(len(scaled)))
        return torch.cat([self._decoded(part).float() for part in parts])

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.pipe.vae.decode(latents).sample
        return pixels

    def _unread(self, prompt: str) -> str:
        """What of the prompt comes after the last token that the text encoder takes."""
        if not self.spec.takes_prompt:
            return ""
        tokenizer = self.pipe.tokenizer
        taken = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        places = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return prompt[places[taken][0] :] if len(places) > taken else ""


class _Bar:
    """Stands in for a pipeline's progress bar."""

    def __init__(self, on_step: OnStep, total: int) -> None:
        self.on_step, self.total, self.done = on_step, total, 0

    def update(self, count: int = 1) -> None:
        self.done += count
        self.on_step(self.done, self.total)


@contextlib.contextmanager
def _steps_to(on_step: OnStep, pipe: Any) -> Iterator[None]:
    """Every pipeline moves its progress bar once a step: that is the callback here, since I2VGen-XL has no other."""
    pipe.progress_bar = lambda total: contextlib.nullcontext(_Bar(on_step, total))
    try:
        yield
    finally:
        del pipe.progress_bar
        pipe.maybe_free_model_hooks()  # a pipeline that is stopped does not come to it


def _without_chance(vae: Any) -> None:
    """Let samples of what the VAE makes of a picture be their most likely value.

    Pipelines draw them from the global random generator, whatever generator they are given: the same seed would give
    another video each time. Their spread is far below what can be seen, and Stable Video Diffusion takes the most
    likely value by itself.
    """
    encode = vae.encode

    def certain(pictures: torch.Tensor) -> Any:
        encoded = encode(pictures)
        value = encoded.latent_dist.mode()
        encoded.latent_dist.sample = lambda generator=None: value
        return encoded

    vae.encode = certain
