"""What all models have in common. Imports torch and diffusers: only what runs a model imports this."""

from __future__ import annotations

import abc
import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image
from transformers.utils import logging as hub_logging

from app import cards, garbage, picture
from app.adapters import gauge, ladder, loading, reading, steps
from app.adapters.gauge import Gauge
from app.adapters.loading import Loading
from app.adapters.previews import Picture
from app.adapters.reading import Reading
from app.artifacts import Hindered, Unusable
from app.texts import tr
from jingxiang import console
from jingxiang.errors import JingxiangError
from jingxiang.models import FULL, Limits, ModelSpec, Preset

if TYPE_CHECKING:
    from app.adapters.compiled import Compiled
    from app.artifacts import Artifact, Key
    from app.video import Frames

# Gives a small picture of the video of that number in the batch as it stands: 8-bit RGB of shape (height / 8,
# width / 8, 3), of the frame in the middle; None if there is none. It costs nothing unless it is called.
Look = Callable[[int], Picture | None]
# Called after each denoising step with the steps done, their number and a `Look`, which holds till then; may raise to
# stop. A GPU makes the next one meanwhile.
OnStep = Callable[[int, int, Look], None]
BLACK = 8  # of 255; a picture without a brighter pixel looks black
CPU = "cpu"  # the name of the GPU where there is none


@dataclass(frozen=True)
class Request:
    """One video to make. The seed decides everything that is random. A model without a prompt reads neither it nor
    `negative`, which says what should not be in the video; what of that is too long is not read.
    """

    image: Image.Image
    prompt: str
    preset: Preset
    seed: int
    negative: str = ""


@dataclass(frozen=True)
class Made:
    """One video: frames of shape (frames, height, width, 3), 8-bit RGB.

    `unread` is the end of the prompt, if that is too long for the model.
    """

    frames: Frames
    unread: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a batch came to: a video for each request, in their order, or why there is none.

    `rung`: how it was run in the end; `retried_from`: the rung on which memory ran out before that, else empty.
    `peak_bytes`: see `gauge.Gauge`; `seconds`: denoising and decoding, of the attempt that succeeded.
    """

    made: list[Made | BrokenOutput]
    rung: str
    retried_from: str
    peak_bytes: int
    seconds: float


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


class OutOfMemory(JingxiangError):
    """There is not enough memory, whatever was estimated before."""

    def __init__(self, needed_bytes: int, usable_bytes: int) -> None:
        self.needed_bytes, self.usable_bytes = needed_bytes, usable_bytes
        super().__init__(
            tr(
                "out of memory: it needs about {needed} by estimate, and {usable} could be had; fewer frames or pixels "
                "need less",
                needed=console.size(needed_bytes),
                usable=console.size(usable_bytes),
            )
        )


class Model(Protocol):
    """A loaded model."""

    @property
    def spec(self) -> ModelSpec:
        """What is known of it."""

    @property
    def limits(self) -> Limits:
        """What it can make."""

    @property
    def dtype_name(self) -> str:
        """In what it computes: fp16, bf16 or fp32."""

    @property
    def gpu(self) -> str:
        """The name of the card that it runs on, `cpu` without one."""

    @property
    def uuid(self) -> str:
        """The card's UUID, by which its driver knows it; empty without one."""

    @property
    def held_bytes(self) -> int:
        """Memory of the device that this process holds now: another job of its own can use it."""

    def estimate(self, preset: Preset, batch: int, rung: str = FULL) -> int:
        """Bytes that it takes at most, weights included, while it makes so many videos at once."""

    def generate(self, batch: Sequence[Request], on_step: OnStep, rung: str = FULL) -> Outcome:
        """A video for each request; all have the same preset. One that is broken does not break the others.

        If memory runs out, it is tried once more on a lower rung that needs less, from the first step on. What
        `on_step` raises stops it within a step. Whatever is raised, the model can be used again. Raises `OutOfMemory`.
        """

    def compilation(self, preset: Preset) -> Key | None:
        """What a compiled artifact for one video like that must be for; None where nothing is compiled."""

    def adopt(self, artifact: Artifact, scratch: Path) -> None:
        """Load it; `scratch` is a folder for this process alone. It is used from the next `generate` on that it is for.
        Raises `artifacts.Unusable`, or `Hindered` if it is not to blame.
        """

    def close(self) -> None:
        """Give back all memory. The model cannot be used any more; closing it again does nothing."""


class Diffusion(abc.ABC):
    """A model that is a pipeline of diffusers. A subclass says how that is loaded and how it is called.

    In a batch each video has a random generator of its own and is decoded by itself, so that it is the same as if it
    were made alone, but for the last digits: arithmetic on larger matrices adds up in another order.

    `constant`: parts of the network that denoises whose results are the same in all steps of a video.
    """

    constant: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: ModelSpec, read: Reading, *, rung: str) -> None:
        logging.disable_progress_bar()
        hub_logging.disable_progress_bar()
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = reading.device()
        self.dtype_name, self.dtype = read.dtype_name, read.dtype
        self.rung = rung
        self.folder = read.folder
        self._gauge = Gauge(self.device)
        self._compiled: Compiled | None = None
        self.pipe = self._loaded(read)
        without_chance(self.pipe.vae)

    def _loaded(self, read: Reading) -> Any:
        """The pipeline on its rung. An error leaves nothing behind: not on the device, and not in its traceback."""
        scarce = False
        try:
            with loading.LOCK, read:
                pipe = self._open(Loading(read, self._parts()))
            if read.home != self.device:
                ladder.place(pipe, self.rung, self.device)
            return pipe
        except Exception as error:  # diffusers raises nearly anything for a folder that is not whole
            scarce = gauge.ran_out(error)
            gauge.let_go(error)
            line = (str(error).splitlines() or [""])[0]
            reason = f"{type(error).__name__}: {line}"
        loading.free()
        if scarce:
            raise OutOfMemory(self.spec.rungs[self.rung].weights_bytes(self.dtype.itemsize), self._usable_bytes())
        raise WeightsMissing(read.folder, reason)

    @abc.abstractmethod
    def _open(self, source: Loading) -> Any:
        """The pipeline. May raise anything."""

    def _parts(self) -> Mapping[str, Any]:
        """What is in the folder besides the parts of the pipeline that its index names: a class for each folder."""
        return {}

    @abc.abstractmethod
    def _denoised(self, batch: Sequence[Request], images: list[Image.Image], **shared: Any) -> torch.Tensor:
        """Latents of shape (videos, frames, channels, height / 8, width / 8). `shared` is what every pipeline takes."""

    @abc.abstractmethod
    def _expected(self, output: Any, videos: int) -> torch.Tensor:
        """What comes of it, as the scheduler sees it after a step that gave `output`: latents in that shape."""

    @property
    def limits(self) -> Limits:
        return self.spec.limits

    @property
    def gpu(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else CPU

    @property
    def uuid(self) -> str:
        return str(torch.cuda.get_device_properties(self.device).uuid) if self.device.type == "cuda" else ""

    @property
    def held_bytes(self) -> int:
        return self._gauge.held_bytes()

    def estimate(self, preset: Preset, batch: int, rung: str = FULL) -> int:
        return self.spec.rungs[rung].peak_bytes(preset, batch, number_bytes=self.dtype.itemsize)

    def use(self, rung: str) -> None:
        """Bring the weights to where they are on that rung."""
        if rung != self.rung:
            if self._compiled is not None:
                self._compiled.put_away()
            self.rung = ""  # until it is done: if memory runs out meanwhile, they are here and there
            ladder.place(self.pipe, rung, self.device)
            loading.free()
            self.rung = rung

    def generate(self, batch: Sequence[Request], on_step: OnStep, rung: str = FULL) -> Outcome:
        preset = batch[0].preset
        if any(request.preset != preset for request in batch):
            raise ValueError("the requests of a batch have different presets")
        attempts = self._attempts(preset, len(batch), rung)
        for attempt in attempts:
            try:
                self.use(attempt)
                self._gauge.start()
                start = time.monotonic()
                with self._as_compiled(preset, len(batch), attempt):
                    made = self._generated(batch, on_step, attempt)
                seconds = time.monotonic() - start
                retried_from = "" if attempt == rung else rung
                return Outcome(made, attempt, retried_from, self._gauge.peak_bytes(), seconds)
            except Exception as error:
                if not gauge.ran_out(error):
                    raise
                gauge.let_go(error)
                if self._compiled is not None:
                    self._compiled.forget_graphs()
            loading.free()  # now that the error is gone, which held the tensors of its frames
        raise OutOfMemory(self.estimate(preset, len(batch), attempts[-1]), self._usable_bytes())

    def compilation(self, preset: Preset) -> Key | None:
        from app.adapters import keys

        return keys.key(self.spec, self.folder, preset, dtype=self.dtype_name) if keys.is_guided(preset) else None

    def adopt(self, artifact: Artifact, scratch: Path) -> None:
        from app.adapters.compiled import Compiled, lacks_something

        loaded = self._compiled or Compiled(self.pipe, self.device, self.constant)
        try:
            with garbage.put_off():
                loaded.adopt(artifact.key.digest, artifact.folder, scratch)
        except Exception as error:  # torch raises nearly anything for what it does not take
            kind = Hindered if lacks_something(error) else Unusable
            raise kind(artifact.key, f"{type(error).__name__}: {error}") from error
        self._compiled = loaded

    def _as_compiled(self, preset: Preset, batch: int, rung: str) -> AbstractContextManager[None]:
        """Whatever is compiled for these is used meanwhile."""
        if self._compiled is None:
            return contextlib.nullcontext()
        key = self.compilation(preset) if batch == 1 and rung == FULL else None
        return self._compiled.used(key.digest if key else None)

    def close(self) -> None:
        self.pipe = self._compiled = None
        loading.free()

    def _attempts(self, preset: Preset, batch: int, rung: str) -> list[str]:
        """That rung and the next lower one that needs less for this job; just the next one if none does."""
        rungs = list(self.spec.rungs)
        lower, needed = rungs[rungs.index(rung) + 1 :], self.estimate(preset, batch, rung)
        less = [each for each in lower if self.estimate(preset, batch, each) < needed]
        return [rung, *(less or lower)[:1]]

    def _generated(self, batch: Sequence[Request], on_step: OnStep, rung: str) -> list[Made | BrokenOutput]:
        preset = batch[0].preset
        images = [picture.fit(request.image, preset.width, preset.height) for request in batch]
        expected = functools.partial(self._expected, videos=len(batch))
        with steps.told(on_step, self.pipe, self.device, expected), torch.no_grad():
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
            self._make_room(preset, len(batch))
            return [self._made(*each, rung) for each in zip(batch, images, latents, strict=True)]

    def _make_room(self, preset: Preset, batch: int) -> None:
        """Graphs keep what denoising takes for the next video, unless decoding could need it."""
        if self._compiled is not None and self.device.type == "cuda":
            needed = self.estimate(preset, batch) - self.spec.rungs[FULL].weights_bytes(self.dtype.itemsize)
            if torch.cuda.mem_get_info(self.device)[0] < needed:
                self._compiled.forget_graphs()

    def _usable_bytes(self) -> int:
        """What this process could have of the device: what is free, and what it holds."""
        if self.device.type != "cuda":
            ram = cards.ram()
            return ram.free_bytes + self.held_bytes if ram else 0
        return int(torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device))

    def _made(self, request: Request, image: Image.Image, latents: torch.Tensor, rung: str) -> Made | BrokenOutput:
        pixels = self._pixels(latents, rung)
        if not pixels.isfinite().all():
            return BrokenOutput(tr("not a number"))
        frames: Frames = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        if frames.max() < BLACK <= np.asarray(image).max():
            return BrokenOutput(tr("all black"))
        return Made(frames, self._unread(request.prompt))

    def _pixels(self, latents: torch.Tensor, rung: str) -> torch.Tensor:
        """One video decoded, in parts of nearly equal length: shape (frames, 3, height, width), from -1 to 1, fp32."""
        scaled = latents / self.pipe.vae.config.scaling_factor
        parts = scaled.tensor_split(self.spec.rungs[rung].decode_parts(len(scaled)))
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


def without_chance(vae: Any) -> None:
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
