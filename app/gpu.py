"""The GPUs that torch can use here; if there are none, why."""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.texts import tr
from jingxiang import console

DRIVER = "libcuda.so.1"  # what the container toolkit of NVIDIA puts into a container, from the host
# The kernel's side of the driver, which containers see whether they were given a card or not. On WSL 2 it is a device.
MODULE = Path("/proc/driver/nvidia/version")
WSL = Path("/dev/dxg")
VISIBLE = "CUDA_VISIBLE_DEVICES"
ALL_HIDDEN = ("", "-1", "NoDevFiles")


@dataclass(frozen=True)
class Card:
    """`architecture`: its compute capability, such as (9, 0). `problem`: why torch cannot use it."""

    name: str
    architecture: tuple[int, int]
    free_bytes: int = 0
    total_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Cuda:
    """What torch says. `build`: the CUDA that it was built for, empty for a CPU build; `problem`: why no card."""

    torch: str
    build: str
    cards: tuple[Card, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Surroundings:
    """What of the host can be seen: the version of the driver in its kernel (empty: none; on WSL 2 not known),
    whether the driver's library is here, and what hides the cards from programs.
    """

    module: str
    has_library: bool
    hidden: str | None = None


@dataclass(frozen=True)
class Verdict:
    """`state` is None for what is neither well nor wrong."""

    text: str
    is_well: bool | None
    fix: str = ""


def ask() -> Cuda:
    """Import torch and let it look for cards: seconds."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        return Cuda("", "", problem=_first_sentence(error))
    version, build = str(torch.__version__), str(torch.version.cuda or "")
    if not build:
        return Cuda(version, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what it then raises
        try:
            torch.cuda.init()
            cards = tuple(_card(torch, number) for number in range(torch.cuda.device_count()))
        except (RuntimeError, AssertionError) as error:
            return Cuda(version, build, problem=_first_sentence(error))
    return Cuda(version, build, cards)


def surroundings(module: Path = MODULE, wsl: Path = WSL, library: str = DRIVER) -> Surroundings:
    """What can be seen without torch."""
    version = ""
    if module.exists() or wsl.exists():
        found = re.search(r"\b\d{3}\.\d+(\.\d+)*\b", module.read_text() if module.exists() else "")
        version = found[0] if found else "?"
    try:
        ctypes.CDLL(library)
        has_library = True
    except OSError:
        has_library = False
    hidden = os.environ.get(VISIBLE)
    return Surroundings(version, has_library, hidden if hidden in ALL_HIDDEN else None)


def verdicts(cuda: Cuda, around: Surroundings) -> list[Verdict]:
    """One for each card, or one for having none."""
    if not cuda.torch:
        text = tr("torch cannot be imported: {reason}", reason=cuda.problem)
        return [Verdict(text, False, tr("take the image as it was built: python -m app verify shows what differs"))]
    if not cuda.build:
        text = tr("torch {version} is a CPU build: videos are made without a GPU", version=cuda.torch)
        return [Verdict(text, None)]
    built = tr("torch {version} for CUDA {build}", version=cuda.torch, build=cuda.build)
    if cuda.cards:
        return [_of_card(card, built) for card in cuda.cards]
    reason, fix = _why_none(cuda, around)
    return [Verdict(f"{built}: {reason}", False, fix)]


def _of_card(card: Card, built: str) -> Verdict:
    if card.problem:
        return Verdict(f"{card.name}: {card.problem}; {built}", False, tr("take the image for another CUDA"))
    text = tr("{name}: {free} of {total} free; {built}", name=card.name, free=console.size(card.free_bytes),
              total=console.size(card.total_bytes), built=built)  # fmt: skip
    return Verdict(text, True)


def _why_none(cuda: Cuda, around: Surroundings) -> tuple[str, str]:
    """The reason, and what to do about it."""
    with_gpus = tr("docker run --gpus all … (podman: --device nvidia.com/gpu=all)")
    if around.has_library:
        if around.hidden is not None:
            reason = tr("{variable}={value} hides all cards", variable=VISIBLE, value=around.hidden or "''")
            return reason, tr("start it without {variable}", variable=VISIBLE)
        if "too old" in cuda.problem:
            return cuda.problem, tr("update the NVIDIA driver of the host, or take the image for an older CUDA")
        return cuda.problem or tr("the driver knows no card"), tr("try on the host: nvidia-smi")
    if around.module:
        text = tr("the host has an NVIDIA driver ({version}), but this container was started without its cards",
                  version=around.module)  # fmt: skip
        return text, with_gpus
    text = tr("no NVIDIA driver is to be seen")
    return text, with_gpus + tr("; the host needs the NVIDIA driver and the NVIDIA container toolkit")


def _card(torch: Any, number: int) -> Card:
    name, architecture = torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)
    if not runs(torch.cuda.get_arch_list(), architecture):
        shown = "{}.{}".format(*architecture)
        problem = tr("this build of torch does not run on its architecture, {architecture}", architecture=shown)
        return Card(name, architecture, problem=problem)
    try:
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:  # full, broken, or another program has it for itself
        return Card(name, architecture, problem=_first_sentence(error))
    return Card(name, architecture, free, total)


def runs(built: list[str], architecture: tuple[int, int]) -> bool:
    """Whether a build for these (`sm_90`: machine code for 9.x from 9.0 on; `compute_90`: also for all that follow)
    runs on a card of that compute capability. See "Binary compatibility" in NVIDIA's CUDA C++ programming guide.
    """
    for each in built:
        kind, _, digits = each.rstrip("af").partition("_")
        if digits.isdecimal():
            of = divmod(int(digits), 10)
            if of <= architecture and (kind == "compute" or of[0] == architecture[0]):
                return True
    return not built


def _first_sentence(error: BaseException) -> str:
    """Torch goes on with addresses to download from."""
    first = (str(error).splitlines() or [""])[0]
    return re.split(r"\.\s", first)[0].rstrip(".") or type(error).__name__
