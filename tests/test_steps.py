"""app.adapters.steps: who is told of a step, and when, without a GPU that stands still meanwhile"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from app.adapters import steps
from app.adapters.steps import Bar

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Gpu:
    """Notes what it is handed, in order, and what is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.handed = 0
        monkeypatch.setattr(steps, "_mark", self._mark)

    def hand(self) -> None:
        self.handed += 1
        self.log.append(f"hand {self.handed}")

    def _mark(self) -> Any:
        number = self.handed
        return SimpleNamespace(synchronize=lambda: self.log.append(f"wait {number}"))

    def tell(self, done: int, found: str) -> None:
        self.log.append(f"tell {done} {found}")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def made(gpu: Gpu, told: Callable[[int, str], None], device: torch.device, count: int = 3) -> None:
    with Bar(told, lambda: f"made of {gpu.handed}", device) as bar:
        for _ in range(count):
            gpu.hand()
            bar.update()


def test_a_gpu_is_handed_the_next_step_before_one_is_waited_for_and_no_more(gpu: Gpu) -> None:
    made(gpu, gpu.tell, CUDA)
    assert gpu.log == [
        "hand 1",
        "hand 2", "wait 1", "tell 1 made of 1",
        "hand 3", "wait 2", "tell 2 made of 2",
        "wait 3", "tell 3 made of 3",
    ]  # fmt: skip


def test_on_a_cpu_a_step_has_ended_when_the_bar_moves(gpu: Gpu) -> None:
    made(gpu, gpu.tell, CPU, 2)
    assert gpu.log == ["hand 1", "tell 1 made of 1", "hand 2", "tell 2 made of 2"]


@pytest.mark.parametrize(("device", "handed"), [(CPU, 2), (CUDA, 3)])
def test_who_is_told_may_stop_it_within_a_step(gpu: Gpu, device: torch.device, handed: int) -> None:
    told = []

    def tell(done: int, _: str) -> None:
        told.append(done)
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        made(gpu, tell, device, 9)
    assert (told, gpu.handed) == ([1, 2], handed)


def test_nothing_is_told_after_an_error(gpu: Gpu) -> None:
    def pipeline() -> None:
        with Bar(gpu.tell, lambda: "", CUDA) as bar:
            bar.update()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pipeline()
    assert gpu.log == []


class Distant(torch.Tensor):  # type: ignore[misc]
    """As one on a GPU: how often it is fetched is counted."""

    fetched = 0

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        Distant.fetched += 1
        return self.as_subclass(torch.Tensor).clone()


@pytest.mark.parametrize(
    "kind", [diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler, diffusers.DPMSolverMultistepScheduler]
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, with NumPy 2
def test_a_scheduler_is_told_timesteps_that_are_here(kind: Any) -> None:
    """What comes of it is the same, to the last bit."""

    def denoised(is_distant: bool) -> tuple[torch.Tensor, list[type], int]:
        scheduler = kind()
        kinds: list[type] = []
        step = scheduler.step

        def seen(result: torch.Tensor, timestep: torch.Tensor, *rest: Any, **named: Any) -> Any:
            kinds.append(type(timestep))
            return step(result, timestep, *rest, **named)

        scheduler.step = seen
        pipe = SimpleNamespace(scheduler=scheduler, maybe_free_model_hooks=lambda: None)
        Distant.fetched = 0
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        with steps.told(lambda *_: None, pipe, CPU, lambda output: output.prev_sample):
            scheduler.set_timesteps(5)
            if is_distant:
                scheduler.timesteps = scheduler.timesteps.as_subclass(Distant)
            with pipe.progress_bar(total=5) as bar:
                for timestep in scheduler.timesteps:
                    latents = scheduler.step(latents * 0.5, timestep, scheduler.scale_model_input(latents, timestep))[0]
                    bar.update()
        return latents, kinds, Distant.fetched

    plain, distant = denoised(False), denoised(True)
    assert torch.equal(plain[0], distant[0].as_subclass(torch.Tensor))
    assert distant[1:] == ([torch.Tensor] * 5, 1)


def test_a_timestep_that_is_none_of_the_schedulers_stays_as_it_is() -> None:
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(5)
    known = steps._Known(scheduler)
    own = torch.tensor(801)
    assert known.here(own) is own
    assert known.here(801) == 801
    assert [int(known.here(each)) for each in scheduler.timesteps.flip(0).flip(0)] == scheduler.timesteps.tolist()
    first = known.here(scheduler.timesteps[2])
    scheduler.set_timesteps(4)  # another video
    assert (int(first), int(known.here(scheduler.timesteps[2]))) == (400, 250)
