"""Writes docs/benchmarks.md and, beside it, the results of benches that it is made from.

    python -m ci.bench.speed.results FILE…      what `invoke bench gpu --json` and others have printed

A bench that is in none of the files stays as it was; so does a model whose own way `bench gpu` did not measure anew,
with the machine and the commit of its run. A bench that is in several of the files was run for each model on its own,
at the same time on another card of the machine, or one after the other. Nobody edits those two by hand: a test compares
them.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ci.bench.report import Figure

FOLDER = Path(__file__).resolve().parent.parent.parent.parent / "docs"
NAME = "benchmarks"
ORDER = ("gpu", "profile", "start-gpu", "workers", "memory")
TITLES = {
    "gpu": "Speed", "profile": "What the GPU is busy with", "start-gpu": "Start", "workers": "Several GPUs",
    "memory": "Memory",
}  # fmt: skip
COMMANDS = {
    "gpu": "bench gpu", "profile": "bench gpu --profile", "start-gpu": "bench start --gpu",
    "workers": "bench gpu --workers", "memory": "bench memory",
}  # fmt: skip
OF_ALL = ("psnr_db", "law_error_gib")  # figures that speak of all models
OF_FIRST = ("alone_ready_s", "alone_first_video_s")  # and of the first
OF_ONE = {"i2vgen-xl": "i2v_", "svd-xt": "svd_", "animatediff": "animatediff_"}  # what those of a model begin with
OURS = "ours"  # the way that is measured beside its peers, as `stock` calls it, which imports torch
VERSIONS = ("driver", "cuda", "torch", "diffusers", "transformers")
HEAD = """# Benchmarks

Written by `python3 tasks.py bench gpu --write` and the like from [{name}.json]({name}.json), not by hand. The models
have their full size and random weights: speed and memory do not depend on the values, but pictures do, so PSNR and SSIM
are those of videos that look like noise.
"""

Found = Mapping[str, Any]


def main() -> None:
    write(joined(json.loads(Path(file).read_text(encoding="utf-8")) for file in sys.argv[1:]))


def joined(found: Iterable[Found]) -> list[Found]:
    """Those of the same bench as one. Raises `ValueError` if they are not of one machine and commit."""
    every: dict[str, Found] = {}
    for each in found:
        name = each["bench"]
        every[name] = _both(every[name], each) if name in every else each
    return list(every.values())


def _both(one: Found, other: Found) -> Found:
    """Where only one thing can be told, such as how a start went, it is that of the first."""
    if one["machine"] != other["machine"]:
        raise ValueError(f"{one['bench']}: results of two machines or commits")
    both = {**other, **one}
    for name in ("results", "laws", "notes"):
        if name in both:
            both[name] = [*one[name], *(each for each in other[name] if each not in one[name])]
    if "presets" in both:
        both["presets"] = {**one["presets"], **other["presets"]}
    if one.get("rate_tflops") != other.get("rate_tflops"):
        rate, models = other["rate_tflops"], ", ".join(other["presets"])
        both["notes"] = [*both["notes"], f"{models}: in a run of their own on the same machine, at {rate:g} TFLOP/s"]
    pairs = zip(one["figures"], other["figures"], strict=True)
    return {**both, "figures": [_figure_of_both(*pair) for pair in pairs]}


def _figure_of_both(one: Found, other: Found) -> Found:
    if one["value"] is None or other["value"] is None:
        return other if one["value"] is None else one
    if one["name"] not in OF_ALL:
        return one
    worse = max if one["better"] == "lower" else min
    return {**one, "value": worse(one["value"], other["value"]), "peers": {**one["peers"], **other["peers"]}}


def write(found: Iterable[Found], folder: Path = FOLDER) -> None:
    """Put them in the place of earlier results of the same benches."""
    file = folder / f"{NAME}.json"
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    kept = latest([*found], old)
    folder.mkdir(exist_ok=True)
    file.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(kept), encoding="utf-8")


def latest(new: Sequence[Found], old: Sequence[Found]) -> list[Found]:
    """All that is known, in the order of the page."""
    kept = list[Found]()
    for name in ORDER:
        fresh, stale = ([each for each in every if each["bench"] == name] for every in (new, old))
        known = set[str]()
        if not any("presets" in run for run in [*fresh, *stale]):
            kept += fresh or stale
            continue
        for run in [*fresh, *stale]:
            models = {each["model"] for each in run["results"] if each["way"] == OURS} - known
            known |= models
            if models:
                kept.append(_only(run, models))
    return kept


def _only(run: Found, models: set[str]) -> Found:
    """What it says of these models."""
    gone = [each for each in run["presets"] if each not in models]
    if not gone:
        return run

    def figure(each: Found) -> Found:
        peers = {name: value for name, value in each["peers"].items() if name.split(", ")[0] not in gone}
        if each["name"] in OF_ALL:
            own = [value for name, value in peers.items() if name.endswith(f", {OURS}")]
            return {**each, "value": min(own, default=None), "peers": peers}
        is_gone = each["name"].startswith(tuple(OF_ONE[model] for model in gone if model in OF_ONE))
        is_gone |= each["name"] in OF_FIRST and next(iter(run["presets"])) in gone
        return {**each, "value": None, "peers": {}} if is_gone else each

    return {
        **run,
        "presets": {name: each for name, each in run["presets"].items() if name in models},
        "notes": [each for each in run["notes"] if not each.startswith(tuple(gone))],
        "figures": [figure(each) for each in run["figures"]],
        "results": [each for each in run["results"] if each["model"] in models],
    }


def page(found: Sequence[Found]) -> str:
    """The whole file."""
    parts = [HEAD.format(name=NAME)]
    every = sorted((each for bench in found for each in bench["figures"]), key=lambda each: str(each["name"]))
    joined = {
        name: functools.reduce(_figure_of_both, same)
        for name, same in itertools.groupby(every, key=lambda each: str(each["name"]))
    }
    names = dict.fromkeys(each["name"] for bench in found for each in bench["figures"])
    figures = [Figure(**joined[name]) for name in names]
    if figures:
        parts.append("## Figures\n\n" + _table(("figure", "value", "bar", "", "beside it"), map(_figure, figures)))
        parts.append("## What was not reached\n\n" + _misses(figures))
    for name, benches in itertools.groupby(found, key=lambda bench: str(bench["bench"])):
        parts.append(f"## {TITLES[name]}\n\n" + "\n".join("\n\n".join(_section(bench)) for bench in benches))
    return "\n".join(parts)


def _section(bench: Found) -> Iterator[str]:
    yield f"`python3 tasks.py {COMMANDS[bench['bench']]}` on {_machine(bench)}."
    if "rate_tflops" in bench:
        yield (
            f"A large matrix product in fp16 runs at {bench['rate_tflops']:g} TFLOP/s there; *floor* is how many times "
            "longer a video takes than all its matrix products, convolutions and attention would at that rate."
        )
    for model, preset in bench.get("presets", {}).items():
        rows = [_row(each) for each in bench["results"] if each["model"] == model]
        size = f"{preset['width']}x{preset['height']}, {preset['frames']} frames, {preset['steps']} steps"
        columns = ("way", "s a step", "s a video", "peak GiB", "TFLOP/s", "floor", "PSNR dB", "SSIM", "loaded in s")
        yield f"**{model}**, {size}, guidance {preset['guidance']:g}\n\n" + _table(columns, rows).rstrip()
    if "kinds" in bench:
        for model in dict.fromkeys(each["model"] for each in bench["kinds"]):
            yield f"**{model}**, ms a step\n\n" + _kinds([each for each in bench["kinds"] if each["model"] == model])
    if "phases" in bench:
        phases = [(f"{each['s']:.2f}", each["process"], each["phase"]) for each in bench["phases"]]
        yield _table(("s from process start", "process", "what has happened"), phases).rstrip()
    if "laws" in bench:
        heads = ("model", "GiB", "fitted", "in app/models.toml", "largest error, GiB")
        laws = [
            (law["model"], name, f"{value:.3f}", f"{law['written'][name]:.3f}", f"{law['error_gib']:.2f}")
            for law in bench["laws"]
            for name, value in law["fitted"].items()
        ]
        yield _table(heads, laws).rstrip()
    if bench["notes"]:
        yield "\n".join(f"- {note}" for note in bench["notes"])
    yield ""


def _kinds(shares: Sequence[Found]) -> str:
    """A row for each kind of work, a column for each way."""
    ways = list(dict.fromkeys(each["way"] for each in shares))
    ms = {(each["name"], each["way"]): each["ms"] for each in shares}
    counts = [f"{sum(each['count'] for each in shares if each['way'] == way):.0f}" for way in ways]
    rows = [
        (name, *(f"{ms.get((name, way), 0):.1f}" for way in ways))
        for name in dict.fromkeys(each["name"] for each in shares)
    ]
    totals = [f"{sum(value for (_, other), value in ms.items() if other == way):.1f}" for way in ways]
    return _table(("", *ways), [*rows, ("all", *totals), ("kernels", *counts)]).rstrip()


def _row(each: Found) -> tuple[str, ...]:
    return (
        each["way"] if each["how"] == "eager" else f"{each['way']}, {each['how']}",
        _number(each["step_s"], 3),
        f"{each['video_s']:.2f}" + ("" if each["is_whole"] else " (reckoned)"),
        f"{each['peak_gib']:.1f}",
        *(_number(each[name], digits) for name, digits in (("tflops", 0), ("floor_ratio", 2), ("psnr_db", 1))),
        _number(each["ssim"], 4),
        f"{each['load_s']:.1f}",
    )


def _figure(figure: Figure) -> tuple[str, ...]:
    sign = {True: "reached", False: "**missed**", None: "not measured" if figure.value is None else ""}[figure.holds]
    bar = "" if figure.bar is None else f"{_comparison(figure)} {figure.bar:g} {figure.unit}"
    peers = ", ".join(f"{name} {value:g}" for name, value in figure.peers.items())
    return f"`{figure.name}`", "" if figure.value is None else f"{figure.value:g} {figure.unit}", bar, sign, peers


def _misses(figures: Iterable[Figure]) -> str:
    missed = [
        f"- `{each.name}` is {each.value:g} {each.unit}; it should be {_comparison(each)} {each.bar:g}\n"
        for each in figures if each.holds is False
    ]  # fmt: skip
    missed += [f"- `{each.name}` was not measured\n" for each in figures if each.value is None]
    return "".join(missed) or "Nothing: every bar is reached.\n"


def _comparison(figure: Figure) -> str:
    return "at most" if figure.better == "lower" else "at least"


def _machine(bench: Found) -> str:
    """All but one bench use one card, whatever there is."""
    machine = bench["machine"]
    gpu = machine["gpu"] or "the CPU alone"
    if machine["gpus"] > 1:
        gpu = f"{'' if bench['bench'] == 'workers' else 'one of '}{machine['gpus']} x {gpu}"
    parts = [gpu]
    parts += [f"{name} {machine[name]}" for name in VERSIONS if machine[name]]
    parts += [f"Python {machine['python']}", f"{machine['cores']} cores of {machine['cpu']}"]
    return ", ".join(parts) + (f", commit {machine['commit']}" if machine["commit"] else "")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
