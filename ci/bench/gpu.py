"""`invoke bench gpu`: how fast videos are made on a GPU, side by side with what one would do without the app.

Models of full size with random weights, whose speed and memory are those of the real ones. For each, in one run:

    stock fp32    the pipeline as PyTorch and diffusers come: weights in fp32, TF32 in convolutions
    autocast      the same under torch.autocast in fp16
    fp16 eager    the pipeline with weights in fp16
    ours          the app's engine, with what was compiled for the model and the size

`ours` and `fp16 eager` make whole videos, compared with the one of the same seed in fp32; of the other two a few
steps are timed, and a video is reckoned from them. All are compared with what the card could do: see `speed.floor`. A
result is a line of JSON on stderr as soon as it is there.

    --model NAME      only this one; may be repeated
    --folder FOLDER   keep models and compiled artifacts there, and take those that are there (default: a temporary one)
    --out FILE        also write all results there, again after each of them
    --limit SECONDS   begin nothing new after that
    --write           also write docs/benchmarks.md and .json
    --commit HASH     what is measured, where there is no git
    --workers         instead: how many videos all cards make, against one alone (see `speed.workers`)
    --profile         instead: what the card is busy with in a step of each way (see `speed.kinds`)
    --small           tiny models, on any machine, to try the bench itself
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from app.adapters import gauge, loading
from app.adapters.gauge import Gauge
from ci.bench import report
from ci.bench.report import Figure
from ci.bench.speed import alone, card, cases, floor, kinds, quality, results
from ci.bench.speed.cases import Case
from ci.bench.speed.floor import Work
from ci.bench.speed.ours import Ours, Workshop
from ci.bench.speed.stock import AUTOCAST, EAGER, OURS, STOCK, Stock, can_begin, device, half, synchronize

if TYPE_CHECKING:
    from app.video import Frames

WARM = 2  # steps before anything is timed: libraries choose and load their kernels
LIMIT_S = 420.0  # with the longest of what has been begun by then, it ends within 480
GIB = 1 << 30
T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """`is_whole`: the video was made in all its steps; else it is reckoned from a few."""

    is_whole: bool
    step_s: float
    video_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Result:
    """One way to make one model's video. `how`: eager or compiled; `floor_ratio`: seconds over those that the card
    would need if it computed as fast as it multiplies large matrices.
    """

    model: str
    way: str
    how: str
    is_whole: bool
    step_s: float
    video_s: float
    peak_gib: float
    load_s: float
    tflops: float | None = None
    floor_ratio: float | None = None
    psnr_db: float | None = None
    ssim: float | None = None


@dataclass
class Bench:
    """All that was found so far."""

    out: Path | None
    commit: str
    limit_s: float
    names: list[str]
    start: float = field(default_factory=time.monotonic)
    results: list[Result] = field(default_factory=list)
    starts: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rate: float = 0.0

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self.start > self.limit_s

    def tell(self, result: Result) -> None:
        self.results.append(result)
        _say(asdict(result))
        self.keep()

    def note(self, text: str) -> None:
        self.notes.append(text)
        _say({"note": text})
        self.keep()

    def details(self) -> dict[str, object]:
        shown = {name: asdict(cases.PRESETS[name]) for name in self.names if name in cases.PRESETS}
        return {
            "machine": card.card(self.commit), "rate_tflops": round(self.rate / 1e12, 1), "presets": shown,
            "results": [asdict(each) for each in self.results], "starts": self.starts,
        }  # fmt: skip

    def keep(self) -> None:
        if self.out is not None:
            found = report.result("gpu", figures(self.results, self.starts), self.notes, **self.details())
            self.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.small and arguments.write:
        parser.error("--write: figures of tiny models are nothing for docs/benchmarks.md")
    if not can_begin(small=arguments.small):
        return 1
    names = arguments.model or list(cases.TINY if arguments.small else cases.PRESETS)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        folder = arguments.folder or Path(scratch)
        if arguments.workers:
            from ci.bench.speed import workers  # needs what a queue and videos need

            return workers.main(folder, names[0], tiny=arguments.small, commit=arguments.commit)
        if arguments.profile:
            return kinds.main(folder, names, tiny=arguments.small, commit=arguments.commit)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(arguments.out, arguments.commit, arguments.limit, names)
        run(bench, folder, tiny=arguments.small)
    report.show("gpu", figures(bench.results, bench.starts), bench.notes, **bench.details())
    if arguments.write:
        results.write([report.result("gpu", figures(bench.results, bench.starts), bench.notes, **bench.details())])
    return 0


def run(bench: Bench, folder: Path, *, tiny: bool) -> None:
    """Whatever goes wrong with one way is a note: what was found before is worth as much as it was."""
    every = []
    for case, seconds in cases.made(folder / "models", bench.names, tiny=tiny):
        _say({"model": case.name, "written_s": round(seconds, 1)})
        every.append(case)
    with Workshop(folder / "artifacts") as workshop:
        for case in every:
            workshop.begin(case)  # on the CPU's cores, while the GPU makes what is not timed
        wanted = {case.name: reference(bench, case) for case in every}
        for text in workshop.end():
            bench.note(text)
    bench.rate = floor.rate()
    _say({"rate_tflops": round(bench.rate / 1e12, 1)})
    for case in every:
        for name, measure in Measures(bench, case, wanted[case.name], folder / "artifacts").all():
            if bench.is_late:
                bench.note(f"{case.name}, {name}: left out, {bench.limit_s:g} s are over")
            else:
                _tried(bench, f"{case.name}, {name}", measure)
            loading.free()
    _starts_of(bench, every[0], folder / "artifacts")
    if any(not each.is_whole for each in bench.results):
        bench.note(f"{STOCK} and {AUTOCAST}: {cases.FEW} steps were timed, and a video is reckoned from them")


def _starts_of(bench: Bench, case: Case, shelf: Path) -> None:
    """The second time everything is in the page cache."""
    for cache in ("first", "again"):
        found = None if bench.is_late else _tried(bench, f"{case.name}, start", lambda: alone.measured(case, shelf))
        if found is not None:
            bench.starts[cache] = found
            _say({"model": case.name, "start": cache, **found})


def reference(bench: Bench, case: Case) -> Frames | None:
    """The video in fp32, with PyTorch's defaults. Not timed: something else is being compiled meanwhile."""

    def video() -> Frames:
        stock = Stock(case, torch.float32)
        return stock.decoded(stock.make(case.preset.steps, lambda: None))

    start = time.monotonic()
    frames = _tried(bench, f"{case.name}, reference in fp32", video)
    loading.free()
    _say({"model": case.name, "reference_s": round(time.monotonic() - start, 1)})
    return frames


@dataclass
class Measures:
    """The ways to make one model's video. `wanted`: the video in fp32, if it could be made."""

    bench: Bench
    case: Case
    wanted: Frames | None
    shelf: Path
    work: Work | None = None

    def all(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Those first that the figures need most; the first one also counts what there is to compute."""
        yield EAGER, self.half
        yield OURS, self.ours
        yield STOCK, lambda: self.full(STOCK)
        yield AUTOCAST, lambda: self.full(AUTOCAST)

    def half(self) -> None:
        load_s, stock = _clocked(lambda: Stock(self.case, half()))
        self.work = floor.counted(stock)
        found, latents = timed(stock.make, self.case.preset.steps, of=self.case.preset.steps)
        self._tell(EAGER, "eager", found, load_s, stock.decoded(latents))

    def ours(self) -> None:
        load_s, own = _clocked(lambda: Ours(self.case, self.shelf))
        try:
            found, frames = timed(own.make, self.case.preset.steps, of=self.case.preset.steps)
            self._tell(OURS, own.how, found, load_s, frames)
        finally:
            own.model.close()

    def full(self, way: str) -> None:
        load_s, stock = _clocked(lambda: Stock(self.case, torch.float32, autocast=way == AUTOCAST))
        found, _ = timed(stock.make, self.case.few, of=self.case.preset.steps)
        self._tell(way, "eager", found, load_s, None)

    def _tell(self, way: str, how: str, found: Timing, load_s: float, frames: Frames | None) -> None:
        result = Result(
            self.case.name, way, how, found.is_whole, round(found.step_s, 4), round(found.video_s, 3),
            round(found.peak_bytes / GIB, 2), round(load_s, 2),
        )  # fmt: skip
        if self.work is not None:
            speed = self.work.of(self.case.preset.steps) / found.video_s
            result = replace(result, tflops=round(speed / 1e12, 2), floor_ratio=round(self.bench.rate / speed, 3))
        if frames is not None and self.wanted is not None:
            psnr_db, ssim = quality.psnr_db(frames, self.wanted), quality.ssim(frames, self.wanted)
            result = replace(result, psnr_db=round(psnr_db, 2), ssim=round(ssim, 5))
        self.bench.tell(result)


def timed(make: Callable[[int, Callable[[], None]], T], steps: int, *, of: int) -> tuple[Timing, T]:
    """A video of so many steps, made once the kernels are loaded, and what one of `of` steps takes.

    A step takes what a video takes longer for each step more: when a pipeline says that a step has ended, the GPU may
    be anywhere, since some hand their work over ahead, and some wait for it themselves.
    """
    make(WARM, lambda: None)
    short_s, _ = _clocked(lambda: make(WARM, lambda: None))
    gauge = Gauge(torch.device(device()))
    gauge.start()
    seconds, made = _clocked(lambda: make(steps, lambda: None))
    step_s = (seconds - short_s) / (steps - WARM)
    return Timing(steps == of, step_s, seconds + (of - steps) * step_s, gauge.peak_bytes()), made


def _clocked(do: Callable[[], T]) -> tuple[float, T]:
    """Its seconds, to the end of what the GPU does, and what it gives."""
    synchronize()
    start = time.monotonic()
    found = do()
    synchronize()
    return time.monotonic() - start, found


def figures(found: Sequence[Result], starts: dict[str, dict[str, float]] | None = None) -> list[Figure]:
    """As they are named everywhere; without a value where something was not measured."""
    by = {(each.model, each.way): each for each in found}
    first = "smoke" if ("smoke", EAGER) in by else "i2vgen-xl"

    def seconds(model: str) -> dict[str, float]:
        return {each.way: each.video_s for each in found if each.model == model and each.way != OURS}

    def against(name: str, model: str, way: str, bar: float) -> Figure:
        peer, own = by.get((model, way)), by.get((model, OURS))
        value = None if peer is None or own is None else round(peer.video_s / own.video_s, 2)
        peers = {} if value is None or own is None else {"ours, s": own.video_s, **seconds(model)}
        return Figure(name, value, "x", bar, "higher", peers)

    own, eager = by.get((first, OURS)), by.get((first, EAGER))
    near = {f"{each.model}, {each.way}": each.psnr_db for each in found if each.psnr_db is not None}
    ours = [each.psnr_db for each in found if each.way == OURS and each.psnr_db is not None]
    eager_ratio = {} if eager is None or eager.floor_ratio is None else {EAGER: eager.floor_ratio}
    return [
        Figure("i2v_s_per_video", own.video_s if own else None, "s", 5.5, peers=seconds(first)),
        against("i2v_vs_stock_fp32", first, STOCK, 7),
        against("i2v_vs_autocast", first, AUTOCAST, 2.6),
        Figure("i2v_floor_ratio", own.floor_ratio if own else None, "x", 2.1, peers=eager_ratio),
        against("svd_vs_fp16_eager", "svd-xt", EAGER, 1.6),
        against("animatediff_vs_fp16_eager", "animatediff", EAGER, 1.6),
        Figure("psnr_db", min(ours, default=None), "dB", 40, "higher", near),
        *_starts(starts or {}),
    ]


def _starts(found: dict[str, dict[str, float]]) -> list[Figure]:
    """Of a worker alone, everything being in the page cache; the bars are those of the whole app."""
    again, first = found.get("again", {}), found.get("first", {})
    return [
        Figure(f"alone_{name}", again.get(name), "s", None, peers={"the time before": first[name]} if first else {})
        for name in (alone.READY, alone.VIDEO)
    ]


def _tried(bench: Bench, name: str, do: Callable[[], T]) -> T | None:
    """None, and a note, if anything goes wrong: memory may run out, and libraries may raise anything."""
    try:
        return do()
    except Exception as error:
        gauge.let_go(error)  # what it was working on would stay in memory
        bench.note(f"{name}: {report.said(error)}")
        return None


def _say(found: dict[str, object]) -> None:
    sys.stderr.write(json.dumps(found) + "\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench gpu", description="speed on a GPU")
    parser.add_argument("--model", action="append", choices=[*cases.PRESETS, "smoke"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", type=float, default=LIMIT_S)
    parser.add_argument("--commit", default="")
    for name in ("json", "write", "workers", "profile", "small"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
