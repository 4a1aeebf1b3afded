"""jingxiang.gpu, with NVIDIA's own binding and a driver that is made up"""

from __future__ import annotations

import dataclasses

import pynvml
import pytest

from jingxiang import gpu
from jingxiang.gpu import Gpu, Gpus
from tests.peers import nvml
from tests.peers.nvml import H200, L20


def test_one_card_is_read_with_its_memory_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch, [H200])
    found = gpu.detect()
    assert found == Gpus((H200,))
    assert gpu.summary(found) == "NVIDIA H200, driver 570.86.15, 139.6 of 140.4 GiB free"


def test_two_cards_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch, [L20, dataclasses.replace(L20, free_bytes=10 << 20)])
    found = gpu.detect()
    assert [card.free_bytes for card in found.cards] == [45000 << 20, 10 << 20]
    assert gpu.summary(found) == "2 x NVIDIA L20, driver 550.90.07, 43.9 of 45.0 GiB free"


def test_a_card_that_shares_the_memory_of_the_cpu_has_none_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(
        monkeypatch, [Gpu("NVIDIA GB10", "580.95.05", 1, 1, "12.1")], memory=pynvml.NVML_ERROR_NOT_SUPPORTED
    )  # fmt: skip
    assert gpu.detect() == Gpus((Gpu("NVIDIA GB10", "580.95.05", 0, 0, "12.1"),))


def test_a_driver_without_cards_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch)
    assert gpu.detect() == Gpus(())


def test_a_driver_that_is_not_loaded_is_a_problem_with_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch, init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    found = gpu.detect()
    assert found == Gpus((), "Driver Not Loaded")
    assert gpu.summary(found) == "NVIDIA driver does not answer: Driver Not Loaded"


def test_a_card_that_fails_while_it_is_asked_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch, [H200], memory=pynvml.NVML_ERROR_GPU_IS_LOST)
    assert gpu.detect() == Gpus((), "GPU is lost")


def test_a_machine_without_a_driver_has_no_gpu_and_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.absent(monkeypatch)
    found = gpu.detect()
    assert found == Gpus(())
    assert gpu.summary(found) == "no NVIDIA GPU"


def test_the_binding_of_this_machine_is_asked_without_failing() -> None:
    """Whatever it says: the real library, or the real way in which it is absent."""
    found = gpu.detect()
    assert gpu.summary(found)
    assert bool(found.cards) <= (not found.problem)
