"""Profiles: which build of PyTorch an environment has, and which one this machine can run."""

from __future__ import annotations

from dataclasses import dataclass

from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.gpu import Gpu, Gpus
from jingxiang.language import tr

AUTO = "auto"


@dataclass(frozen=True)
class Profile:
    """One lock of the app. The oldest driver (its first number) and compute capability that its PyTorch runs with, and
    the CUDA that it was built with (its first number, empty without)."""

    name: str
    title: str
    oldest_driver: int = 0
    oldest_architecture: tuple[int, int] = (0, 0)
    cuda: str = ""

    def problem(self, card: Gpu) -> str:
        """Why its PyTorch cannot use a card; empty if it can."""
        if _numbers(card.architecture) < self.oldest_architecture:
            needed = "{}.{}".format(*self.oldest_architecture)
            return tr("{card} (compute capability {has}) is too old for {title} (needs {needed})",
                      card=card.name, has=card.architecture, title=self.title, needed=needed)  # fmt: skip
        if _numbers(card.driver)[0] < self.oldest_driver:
            return tr("driver {driver} is too old for {title} (needs {needed})",
                      driver=card.driver, title=self.title, needed=self.oldest_driver)  # fmt: skip
        return ""


# Drivers: https://docs.nvidia.com/deploy/cuda-compatibility/ (minor version compatibility). Capabilities: what
# `torch.cuda.get_arch_list()` says in these builds; a later card of the same generation runs the same code.
CPU = Profile("cpu", "CPU")
CUDA12 = Profile("cuda12", "CUDA 12", 525, (7, 0), "12")
CUDA13 = Profile("cuda13", "CUDA 13", 580, (7, 5), "13")
PROFILES = {profile.name: profile for profile in (CPU, CUDA12, CUDA13)}


class NoneFits(JingxiangError):
    """There is a card, but no build runs on it."""

    exit_code = 2

    def __init__(self, problem: str, *, driver: bool) -> None:
        self.problem = problem
        text = (
            tr("{problem}: update it, or use --profile cpu", problem=problem)
            if driver
            else tr("{problem}: use --profile cpu", problem=problem)
        )
        super().__init__(text, hints=("python3 tasks.py setup --profile cpu",))


@dataclass(frozen=True)
class Choice:
    """A profile and why it was taken; `warning`: what it cannot do on this machine."""

    profile: Profile
    reason: str
    warning: str = ""


def check(name: str) -> None:
    """Raise `UnknownName` unless there is such a profile, or it is `auto`."""
    if name not in (AUTO, *PROFILES):
        raise UnknownName("profile", name, (AUTO, *PROFILES))


def choose(name: str, found: Gpus) -> Choice:
    """The profile that was asked for, or (`auto`) the newest that the first card and its driver can run.

    Raises `NoneFits` where there is a card that none can use.
    """
    check(name)
    if name != AUTO:
        profile = PROFILES[name]
        warning = profile.problem(found.cards[0]) if found.cards else ""
        return Choice(profile, tr("as asked for"), warning)
    if not found.cards:  # a driver that does not answer is told by `gpu.summary`
        return Choice(CPU, tr("no card to use"))
    card = found.cards[0]
    for profile in (CUDA13, CUDA12):
        if not profile.problem(card):
            return Choice(profile, tr("fits driver {driver}", driver=card.driver))
    raise NoneFits(CUDA12.problem(card), driver=_numbers(card.architecture) >= CUDA12.oldest_architecture)


def _numbers(version: str) -> tuple[int, ...]:
    """`550.90.07` as numbers; what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
