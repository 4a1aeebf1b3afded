"""Whether a job fits into memory, and how: what was measured here corrects what app/models.toml says of a model."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from app.cards import Holder, Space
from app.texts import tr
from jingxiang import console
from jingxiang.models import FULL, HALF_BYTES, Memory, ModelSpec, Preset

if TYPE_CHECKING:
    from app.adapters.base import Model, Outcome

NUMBER_BYTES = {"fp16": HALF_BYTES, "bf16": HALF_BYTES, "fp32": 2 * HALF_BYTES}
# What has to be free for a job, of what it takes by its law. The allocator splits what it has: on an H200 all models
# run with 1.02 times the peak as its limit, on the rung `groups` with 1.05 to 1.1 times. The rest is for others.
RESERVE = 1.1
# What the driver and its libraries take besides, from the first use of a GPU on: 0.68 to 0.77 GiB on an H200.
CONTEXT_BYTES = round(0.75 * (1 << 30))
CPU_RUNGS = (FULL, "frames")  # on the others, weights that are not used are on the CPU
# Sizes within this factor are one: a line through them would be anything.
SPREAD = 1.1
SCALE = (0.5, 4.0)  # one measurement alone is not believed more than that
NEAR = 1.5  # how many times as large or small may be what is timed to say how long something takes
LEAST_FRAMES = 8
LEAST_PIXELS = 256 * 256
PARTS = 40  # sizes that are tried between what was asked for and nothing
SHOWN = 3  # processes


@dataclass(frozen=True)
class Measurement:
    """One run that was done, with nothing but one batch in it.

    `gpu`: the card's name, `cpu` without one; `dtype`: fp16, bf16 or fp32; `rung`: see app/adapters/ladder.py.
    `peak_bytes`: on a GPU what was allocated at most, weights included, without what the allocator kept besides; on the
    CPU by how much the process had grown at most since before the model was loaded; 0: not known.
    `seconds`: denoising and decoding of the whole batch, in `steps` steps, without loading.
    """

    gpu: str
    model: str
    dtype: str
    rung: str
    width: int
    height: int
    frames: int
    batch: int
    steps: int
    peak_bytes: int
    seconds: float

    @property
    def megapixels(self) -> float:
        return self.width * self.height * self.frames * self.batch / 1e6

    @property
    def preset(self) -> Preset:
        return Preset(self.width, self.height, self.frames, self.steps, fps=1, guidance=1.0)


def measurement(model: Model, preset: Preset, batch: int, outcome: Outcome) -> Measurement:
    """What a finished run of `model` has shown."""
    return Measurement(
        model.gpu, model.spec.name, model.dtype_name, outcome.rung, preset.width, preset.height, preset.frames, batch,
        preset.steps, outcome.peak_bytes, outcome.seconds,
    )  # fmt: skip


@dataclass(frozen=True)
class Law:
    """Bytes that a model takes on one rung: a line over what its table says, through what was measured."""

    memory: Memory
    number_bytes: int
    # By size: bytes that the table says, bytes that were measured.
    points: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, memory: Memory, number_bytes: int, measured: Iterable[Measurement]) -> Law:
        """`measured`: of one card, model, dtype and rung."""
        law = cls(memory, number_bytes)
        points = ((law.prior(each.preset, each.batch), each.peak_bytes) for each in measured if each.peak_bytes > 0)
        return replace(law, points=tuple(sorted(points)))

    def prior(self, preset: Preset, batch: int) -> int:
        return self.memory.peak_bytes(preset, batch, number_bytes=self.number_bytes)

    def peak_bytes(self, preset: Preset, batch: int) -> int:
        """Never less than what was measured at this size or a smaller one."""
        prior = self.prior(preset, batch)
        seen = max((measured for said, measured in self.points if said <= prior), default=0)
        offset, slope = self._line
        return max(seen, round(offset + slope * prior))

    @functools.cached_property
    def _line(self) -> tuple[float, float]:
        if not self.points:
            return 0.0, 1.0
        least, most = self.points[0][0], self.points[-1][0]
        if most < least * SPREAD:
            return self._scaled()
        # The medians of the slopes between all pairs, and of what is left (Theil and Sen): one odd value moves neither.
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(self.points, 2) if b[0] >= a[0] * SPREAD]
        slope = max(0.0, statistics.median(slopes))
        return statistics.median(measured - slope * said for said, measured in self.points), slope

    def _scaled(self) -> tuple[float, float]:
        """With one size alone the weights are believed, and all that comes on top is scaled."""
        weights = self.memory.weights_bytes(self.number_bytes)
        above = [(measured - weights) / (said - weights) for said, measured in self.points if said > weights]
        scale = min(max(max(above, default=1.0), SCALE[0]), SCALE[1])
        return weights * (1 - scale), scale


@dataclass(frozen=True)
class Fit:
    """It fits. `needed_bytes`: what it takes on that rung, with the reserve."""

    rung: str
    needed_bytes: int


def rung_texts() -> dict[str, str]:
    """What to say of the rungs of the ladder (app/adapters/ladder.py) that save memory."""
    return {
        "frames": tr("in less memory: decoded frame by frame"),
        "offload": tr("in less memory: only the part that works is on the card"),
        "groups": tr("in less memory: only the layers that work are on the card"),
    }


@dataclass(frozen=True)
class Refusal:
    """It does not fit on any rung. `needed_bytes`: on the one that needs least, with the reserve.

    `nearest`: settings and videos at once that fit, as close as possible to what was asked for; None if nothing does.
    `holders`: other programs, where it would help if they let go.
    """

    needed_bytes: int
    usable_bytes: int
    total_bytes: int
    asked: tuple[Preset, int]
    nearest: tuple[Preset, int] | None
    holders: tuple[Holder, ...]

    @property
    def message(self) -> str:
        """With numbers, in the language being spoken."""
        sentence = tr(
            "not enough memory: it needs {needed}, and {usable} can be had",
            needed=console.size(self.needed_bytes),
            usable=console.size(self.usable_bytes),
        )
        return sentence + tr(": ") + tr("; ").join([self._nearest_text(), *self._freeing_text()])

    @property
    def brief(self) -> str:
        """Where there is room for a few words only."""
        return tr(
            "needs {needed}, {usable} free",
            needed=console.size(self.needed_bytes),
            usable=console.size(self.usable_bytes),
        )

    def _nearest_text(self) -> str:
        if self.nearest is None:
            return tr("nothing smaller fits, either")
        preset, batch = self.nearest
        if preset == self.asked[0]:
            return tr("{count} at once would fit", count=batch)
        return tr(
            "{width}x{height} with {frames} frames would fit",
            width=preset.width,
            height=preset.height,
            frames=preset.frames,
        )

    def _freeing_text(self) -> list[str]:
        if self.needed_bytes > self.total_bytes:
            return [tr("there is no more than {total} in all", total=console.size(self.total_bytes))]
        missing = console.size(self.needed_bytes - self.usable_bytes)
        if not self.holders:
            return [tr("or free {missing}", missing=missing)]
        names = tr(", ").join(
            tr("process {pid} {program} holds {size}", pid=each.pid, program=each.program or "?",
               size=console.size(each.size_bytes))
            for each in self.holders[:SHOWN]
        )  # fmt: skip
        return [tr("or free {missing} ({names})", missing=missing, names=names)]


def plan(
    spec: ModelSpec,
    known: Sequence[Measurement],
    space: Space | None,
    preset: Preset,
    batch: int = 1,
    *,
    gpu: str,
    dtype: str,
    held_bytes: int = 0,
    own: Collection[int] = (),
) -> Fit | Refusal:
    """On which rung of the ladder so many videos fit into what can be had: the first one that does.

    `known`: all that was measured; what is of another card, model or dtype is left out. `space`: as it is now, None if
    it is not known, and then everything fits. `held_bytes`: what our own worker holds of it (`Model.held_bytes`), which
    the job can use; `own`: its process ids, which nobody is to end.
    """
    laws = _laws(spec, known, gpu=gpu, dtype=dtype, is_gpu=space is None or space.is_gpu)
    needed = {rung: _needed(law, preset, batch) for rung, law in laws.items()}
    if space is None:
        return Fit(FULL, needed[FULL])
    usable = space.free_bytes + held_bytes
    if space.is_gpu and not held_bytes:
        usable = max(0, usable - CONTEXT_BYTES)
    for rung, size_bytes in needed.items():
        if size_bytes <= usable:
            return Fit(rung, size_bytes)

    def fits(preset: Preset, batch: int) -> bool:
        return any(_needed(law, preset, batch) <= usable for law in laws.values())

    nearest = next((each for each in _smaller(spec, preset, batch) if fits(*each)), None)
    others = tuple(holder for holder in space.holders if holder.pid not in own)
    return Refusal(min(needed.values()), usable, space.total_bytes, (preset, batch), nearest, others)


def seconds(
    known: Iterable[Measurement], preset: Preset, batch: int = 1, *, gpu: str, model: str, dtype: str, rung: str = FULL
) -> float | None:
    """How long a run will take, from runs of about that size here; None if there was none of that kind.

    For each pixel, denoising takes the same time in each step, and decoding takes the same time once.
    """
    alike = [each for each in known if (each.gpu, each.model, each.dtype, each.rung) == (gpu, model, dtype, rung)]
    alike = [each for each in alike if each.seconds > 0]
    if not alike:
        return None
    size = preset.width * preset.height * preset.frames * batch / 1e6

    def distance(each: Measurement) -> float:
        return max(each.megapixels / size, size / each.megapixels)

    nearest = min(map(distance, alike))
    near = [each for each in alike if distance(each) <= max(NEAR, nearest)]
    rates = [(each.steps, each.seconds / each.megapixels) for each in near]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(rates, 2) if a[0] != b[0]]
    a_step = statistics.median(slopes) if slopes else 0.0
    if not 0 < a_step < min(rate / steps for steps, rate in rates):  # unknown, or the runs were unlike
        return size * preset.steps * statistics.median(rate / steps for steps, rate in rates)
    once = statistics.median(rate - a_step * steps for steps, rate in rates)
    return size * (once + a_step * preset.steps)


def _laws(spec: ModelSpec, known: Sequence[Measurement], *, gpu: str, dtype: str, is_gpu: bool) -> dict[str, Law]:
    alike = [each for each in known if (each.gpu, each.model, each.dtype) == (gpu, spec.name, dtype)]
    return {
        rung: Law.of(memory, NUMBER_BYTES[dtype], [each for each in alike if each.rung == rung])
        for rung, memory in spec.rungs.items()
        if is_gpu or rung in CPU_RUNGS
    }


def _needed(law: Law, preset: Preset, batch: int) -> int:
    return round(law.peak_bytes(preset, batch) * RESERVE)


def _smaller(spec: ModelSpec, preset: Preset, batch: int) -> Iterator[tuple[Preset, int]]:
    """Less and less of what was asked for: fewer videos at once; then fewer frames or pixels; then fewer of both."""
    yield from ((preset, fewer) for fewer in range(batch - 1, 0, -1))
    frames = [replace(preset, frames=count) for count in range(preset.frames - 1, LEAST_FRAMES - 1, -1)]
    sizes = _smaller_sizes(spec, preset)
    both = [replace(size, frames=each.frames) for size in sizes for each in frames]
    for group in ([*sizes, *frames], both):
        yield from ((each, 1) for each in sorted(group, key=_cost, reverse=True))


def _smaller_sizes(spec: ModelSpec, preset: Preset) -> list[Preset]:
    """Of the same shape, as far as the model's multiple allows, and within its limits."""
    pixels, ratio = preset.width * preset.height, preset.width / preset.height
    found = {spec.limits.size(pixels * part / PARTS, ratio) for part in range(1, PARTS)}
    return [
        replace(preset, width=width, height=height)
        for width, height in found
        if min(LEAST_PIXELS, pixels) <= width * height < pixels
    ]


def _cost(preset: Preset) -> int:
    return preset.width * preset.height * preset.frames
