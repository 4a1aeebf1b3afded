"""`invoke bench gpu --profile`: what the GPU is busy with in a step of each way, by kind of work.

PyTorch's profiler says how long each kernel ran; its kind is told by its name. On a machine without a GPU it is the
operators of the CPU.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from app.adapters import gauge, loading
from ci.bench import report
from ci.bench.report import Figure
from ci.bench.speed import card, cases
from ci.bench.speed.cases import Case
from ci.bench.speed.ours import Ours, Workshop
from ci.bench.speed.stock import AUTOCAST, EAGER, OURS, STOCK, Stock, device, half, synchronize

ATTENTION, NORMS, PRODUCTS = "attention", "norms", "convolutions and matrix products"
COPIES, ELEMENTS, REST = "copies, to another layout or type", "element by element", "rest"
# The first that is in the name. Triton's names say what was fused, not what a kernel is most of all.
PATTERNS = [
    (r"attention|flash|fmha|sdpa", ATTENTION),
    (r"^triton_(red|per)_|norm|moments|welford|FusedParams", NORMS),
    (r"^triton_", ELEMENTS),
    (r"copy|memcpy|memset|nchwToNhwc|nhwcToNchw|CatArray|convertTensor|_to$", COPIES),
    (
        r"conv|gemm|gemv|nvjet|cutlass|xmma|cudnn|splitK|_product|_specialised|fprop|aten::(\w*mm|linear)$",
        PRODUCTS,
    ),
    (r"elementwise|aten::(mul|add|sub|div|silu|gelu|sigmoid)", ELEMENTS),
]
SHORT = 2  # steps of the video that the longer one is compared with
TOP = 12  # kernels that are named

Make = Callable[[int, Callable[[], None]], object]


@dataclass(frozen=True)
class Share:
    """One kind of work, or one kernel, in one way's step: milliseconds, and how many kernels."""

    model: str
    way: str
    name: str
    ms: float
    count: float


def main(folder: Path, names: Iterable[str], *, tiny: bool, commit: str) -> int:
    """Whatever goes wrong with one way is a note. 1 if nothing was seen of any."""
    kinds, kernels, notes = list[Share](), list[Share](), list[str]()
    for case, _ in cases.made(folder / "models", names, tiny=tiny):
        loading.free()
        with Workshop(folder / "artifacts") as workshop:
            workshop.begin(case)
            notes += workshop.end()
        for way, opened in ways(case, folder / "artifacts").items():
            try:
                found = step(opened())
            except Exception as error:  # memory may run out, and libraries may raise anything
                gauge.let_go(error)
                notes.append(f"{case.name}, {way}: {report.said(error)}")
                found = {}
            loading.free()
            kinds += shares(case.name, way, by_kind(found))
            kernels += shares(case.name, way, found)[:TOP]
            sys.stderr.write(json.dumps({"model": case.name, "way": way, "kinds": by_kind(found)}) + "\n")
    totals = {f"{model}, {way}, ms": _total(kinds, model, way) for model, way in dict.fromkeys(map(_whose, kinds))}
    first = next(iter(totals.values()), None)
    figures = [Figure("gpu_ms_per_step", first, "ms", None, peers=totals)]
    details = {"machine": card.card(commit), "kinds": [*map(asdict, kinds)], "kernels": [*map(asdict, kernels)]}
    report.show("profile", figures, notes, **details)
    return 0 if kinds else 1


def ways(case: Case, shelf: Path) -> Mapping[str, Callable[[], Make]]:
    """Each opens the model, and gives what makes a video of so many steps."""
    return {
        OURS: lambda: Ours(case, shelf).make,
        EAGER: lambda: Stock(case, half()).make,
        AUTOCAST: lambda: Stock(case, torch.float32, autocast=True).make,
        STOCK: lambda: Stock(case, torch.float32).make,
    }


def step(make: Make) -> dict[str, tuple[float, float]]:
    """By kernel: milliseconds of one step, and how often it runs in it. That is what a video takes more of for each
    step more, so that nothing that is done once counts.
    """
    make(SHORT, lambda: None)
    few = profiled(make, SHORT)
    many = profiled(make, cases.FEW)
    steps = cases.FEW - SHORT
    none = (0.0, 0.0)
    found = {
        name: tuple((each - before) / steps for each, before in zip(value, few.get(name, none), strict=True))
        for name, value in many.items()
    }
    return {name: (ms, count) for name, (ms, count) in found.items() if ms > 0}


def profiled(make: Make, steps: int) -> dict[str, tuple[float, float]]:
    """By kernel: all milliseconds of one video, and how often it ran."""
    is_gpu = device() == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU]) as running:
        make(steps, lambda: None)
        synchronize()
    return summed(running.events() or (), DeviceType.CUDA if is_gpu else DeviceType.CPU)


def summed(events: Iterable[Any], kind: DeviceType) -> dict[str, tuple[float, float]]:
    """By name, what ran on that kind of device. Raises `ValueError` if nothing did."""
    found: dict[str, tuple[float, float]] = {}
    for event in events:
        if event.device_type == kind:  # equal, but another object
            ms = event.self_device_time_total if kind == DeviceType.CUDA else event.self_cpu_time_total
            before_ms, count = found.get(event.name, (0.0, 0.0))
            found[event.name] = before_ms + ms / 1000, count + 1
    if not found:
        raise ValueError(f"the profiler saw nothing on {kind.name}")
    return found


def kind(name: str) -> str:
    """What a kernel of that name does."""
    return next((kind for pattern, kind in PATTERNS if re.search(pattern, name, re.IGNORECASE)), REST)


def by_kind(found: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    kinds: dict[str, tuple[float, float]] = {}
    for name, (ms, count) in found.items():
        before_ms, before = kinds.get(kind(name), (0.0, 0.0))
        kinds[kind(name)] = before_ms + ms, before + count
    return kinds


def shares(model: str, way: str, found: Mapping[str, tuple[float, float]]) -> list[Share]:
    """The longest first."""
    rows = sorted(found.items(), key=lambda row: -row[1][0])
    return [Share(model, way, name, round(ms, 3), round(count, 1)) for name, (ms, count) in rows]


def _whose(share: Share) -> tuple[str, str]:
    return share.model, share.way


def _total(found: Iterable[Share], model: str, way: str) -> float:
    return round(sum(each.ms for each in found if _whose(each) == (model, way)), 2)
