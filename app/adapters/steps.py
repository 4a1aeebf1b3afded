"""The steps of a pipeline, told one by one as they end, without a GPU that stands still meanwhile.

A pipeline only hands its work to the GPU. If nobody waited, all steps of a video would be handed over at once, and
whoever was told of them could neither see how far they are nor stop them. If each were waited for, the GPU would have
nothing to do until the next one is handed over. So that is done before, and no more than that.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from app.adapters import previews

if TYPE_CHECKING:
    from app.adapters.base import OnStep
    from app.adapters.previews import Picture

AHEAD = 1  # steps that a GPU has been handed beyond the one that is told of
T = TypeVar("T")


class Bar(Generic[T]):
    """Stands in for a pipeline's progress bar, which moves once a step: I2VGen-XL calls nothing else.

    When a step has ended, `told` is called with the number of steps done and with what `now` gave when it was handed
    over; what it raises stops the pipeline.
    """

    def __init__(self, told: Callable[[int, T], None], now: Callable[[], T], device: torch.device) -> None:
        self._told, self._now, self._device = told, now, device
        self._begun = 0
        self._waiting: deque[tuple[int, T, Any]] = deque()

    def __enter__(self) -> Bar[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._tell(but=0)

    def update(self, count: int = 1) -> None:
        """So many steps have been handed over."""
        self._begun += count
        is_cuda = self._device.type == "cuda"
        self._waiting.append((self._begun, self._now(), _mark() if is_cuda else None))
        self._tell(but=AHEAD if is_cuda else 0)

    def _tell(self, *, but: int) -> None:
        while len(self._waiting) > but:
            done, found, mark = self._waiting.popleft()
            if mark is not None:
                mark.synchronize()
            self._told(done, found)


@contextlib.contextmanager
def told(on_step: OnStep, pipe: Any, device: torch.device, expected: Callable[[Any], torch.Tensor]) -> Iterator[None]:
    """Let the pipeline tell of its steps. `expected` gives what comes of it, a video after the other, of what its
    scheduler has just given, after guidance; it must not compute anything.
    """
    output: Any = None
    step = pipe.scheduler.step
    known = _Known(pipe.scheduler)

    @functools.wraps(step)  # pipelines look at what it takes
    def noted(result: torch.Tensor, timestep: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal output
        output = step(result, known.here(timestep), *arguments, **named)
        return output

    def bar(total: int) -> Bar[torch.Tensor]:
        def tell(done: int, videos: torch.Tensor) -> None:
            on_step(done, total, lambda number: _picture(videos[number], device))

        return Bar(tell, lambda: expected(output), device)

    pipe.scheduler.step, pipe.progress_bar = noted, bar
    try:
        yield
    finally:
        del pipe.progress_bar, pipe.scheduler.step
        pipe.maybe_free_model_hooks()  # a pipeline that is stopped does not come to it


class _Known:
    """The timesteps of a scheduler, copied once for a video: some look at them several times a step, and to look at
    what is on the GPU means to wait for everything that it has been handed.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._of: torch.Tensor | None = None
        self._copy: torch.Tensor | None = None

    def here(self, timestep: Any) -> Any:
        """The same one on the CPU; itself, if it is none of the scheduler's."""
        every = self._scheduler.timesteps
        if not isinstance(timestep, torch.Tensor) or _start(timestep) != _start(every):
            return timestep
        if self._copy is None or self._of is not every:
            self._of, self._copy = every, every.cpu()
        return self._copy[timestep.storage_offset() - every.storage_offset()]


def _start(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _mark() -> Any:
    """What the GPU comes to after all that it has been handed."""
    mark: Any = torch.cuda.Event(blocking=True)
    mark.record()
    return mark


def _picture(latents: torch.Tensor, device: torch.device) -> Picture | None:
    """The frame in the middle of latents that are there: fetched past what the GPU has been handed since."""
    with torch.cuda.stream(_beside(device)) if device.type == "cuda" else contextlib.nullcontext():
        return previews.picture(latents[len(latents) // 2])


@functools.cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    """A queue of work besides the one that everything else goes through. One, since each keeps memory of its own."""
    return torch.cuda.Stream(device)
