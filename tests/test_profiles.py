"""jingxiang.profiles: which build runs on which card and driver"""

from __future__ import annotations

import dataclasses

import pytest

from jingxiang import profiles
from jingxiang.errors import UnknownName
from jingxiang.gpu import Gpu, Gpus
from jingxiang.profiles import Choice, NoneFits
from tests.peers.nvml import B200, H200, K80, L20, T4


def with_driver(card: Gpu, driver: str) -> Gpu:
    return dataclasses.replace(card, driver=driver)


@pytest.mark.parametrize(
    ("card", "name"),
    [
        (B200, "cuda13"),
        (H200, "cuda12"),
        (L20, "cuda12"),
        (with_driver(L20, "580.65.06"), "cuda13"),
        (with_driver(L20, "579.99"), "cuda12"),
        (with_driver(L20, "525.60.13"), "cuda12"),
        (with_driver(T4, "580.95.05"), "cuda13"),
        (Gpu("Tesla V100", "580.95.05", 0, 0, "7.0"), "cuda12"),  # CUDA 13 has left it behind
        (Gpu("NVIDIA RTX PRO", "580.95.05", 0, 0, "12.0"), "cuda13"),
    ],
)
def test_the_newest_build_that_card_and_driver_can_run_is_taken(card: Gpu, name: str) -> None:
    assert profiles.choose("auto", Gpus((card,))) == Choice(profiles.PROFILES[name], f"fits driver {card.driver}")


@pytest.mark.parametrize("found", [Gpus(()), Gpus((), "Driver Not Loaded")])
def test_without_a_card_it_is_the_cpu_build(found: Gpus) -> None:
    assert profiles.choose("auto", found) == Choice(profiles.CPU, "no card to use")


@pytest.mark.parametrize(
    ("card", "problem", "advice"),
    [
        (T4, "driver 470.82.01 is too old for CUDA 12 (needs 525)", "update it, or use --profile cpu"),
        (with_driver(L20, "N/A"), "driver N/A is too old for CUDA 12 (needs 525)", "update it, or use --profile cpu"),
        (K80, "Tesla K80 (compute capability 3.7) is too old for CUDA 12 (needs 7.0)", "use --profile cpu"),
    ],
)
def test_a_card_that_none_can_use_is_an_error_that_says_what_to_do(card: Gpu, problem: str, advice: str) -> None:
    with pytest.raises(NoneFits) as caught:
        profiles.choose("auto", Gpus((card,)))
    assert (caught.value.exit_code, caught.value.problem) == (2, problem)
    assert caught.value.message == f"{problem}: {advice}"
    assert caught.value.hints == ("python3 tasks.py setup --profile cpu",)


def test_what_is_asked_for_is_taken_without_a_card_too() -> None:
    assert profiles.choose("cuda13", Gpus(())) == Choice(profiles.CUDA13, "as asked for")


def test_what_is_asked_for_is_taken_with_a_warning_where_it_cannot_work() -> None:
    problem = "driver 550.90.07 is too old for CUDA 13 (needs 580)"
    assert profiles.choose("cuda13", Gpus((L20,))) == Choice(profiles.CUDA13, "as asked for", problem)
    assert profiles.choose("cpu", Gpus((T4,))) == Choice(profiles.CPU, "as asked for")


def test_another_name_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"^no profile named 'cuda11'; there is auto, cpu, cuda12, cuda13 "):
        profiles.choose("cuda11", Gpus(()))
