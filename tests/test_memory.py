"""app.memory"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import memory
from app.cards import Holder, Space
from app.memory import RESERVE, Fit, Law, Measurement, Refusal
from app.texts import speaking
from jingxiang import models as catalog
from jingxiang.models import GIB, Memory, ModelSpec, Preset

ROOT = Path(__file__).resolve().parent.parent
CATALOG = catalog.load(ROOT / "app" / "models.toml")
XL = CATALOG.model("i2vgen-xl")
CARD = "NVIDIA GeForce RTX 3060"
PRIOR = Memory(4.0, denoising_gib=0.5, decoding_gib=1.0, decode_chunk=1, decoder_gib=4.0)


def preset(width: int = 512, height: int = 512, frames: int = 16, steps: int = 40) -> Preset:
    return Preset(width, height, frames, steps, fps=8, guidance=9.0)


def measured(
    peak_gib: float, wanted: Preset, *, batch: int = 1, seconds: float = 1.0,
) -> Measurement:  # fmt: skip
    return Measurement(
        CARD, "i2vgen-xl", "fp16", "full", wanted.width, wanted.height, wanted.frames, batch, wanted.steps,
        round(peak_gib * GIB), seconds,
    )  # fmt: skip


def others(one: Measurement) -> list[Measurement]:
    """The same of another kind in each respect."""
    return [
        replace(one, gpu="cpu"), replace(one, model="svd-xt"), replace(one, dtype="fp32"), replace(one, rung="offload")
    ]  # fmt: skip


def law(*known: Measurement) -> Law:
    return Law.of(PRIOR, 2, known)


def gib(found: Law, wanted: Preset, batch: int = 1) -> float:
    return found.peak_bytes(wanted, batch) / GIB


def plan(
    free_gib: float, wanted: Preset, *known: Measurement, batch: int = 1, total_gib: float = 12, held_gib: float = 1,
    spec: ModelSpec = XL, is_gpu: bool = True, holders: tuple[Holder, ...] = (), own: tuple[int, ...] = (),
) -> Fit | Refusal:  # fmt: skip
    space = Space(is_gpu, round(total_gib * GIB), round((free_gib - held_gib) * GIB), holders)
    return memory.plan(
        spec, known, space, wanted, batch, gpu=CARD, dtype="fp16", held_bytes=round(held_gib * GIB), own=own
    )


def refused(found: Fit | Refusal) -> Refusal:
    assert isinstance(found, Refusal)
    return found


def test_without_measurements_the_table_holds() -> None:
    assert law().peak_bytes(preset(), 3) == PRIOR.peak_bytes(preset(), 3)


def test_one_measurement_scales_what_comes_on_top_of_the_weights() -> None:
    said = PRIOR.peak_bytes(preset(), 1) / GIB
    once = law(measured(4 + 1.5 * (said - 4), preset()))
    assert gib(once, preset()) == pytest.approx(4 + 1.5 * (said - 4))
    large = preset(1024, 1024, 32)
    assert gib(once, large) == pytest.approx(4 + 1.5 * (PRIOR.peak_bytes(large, 1) / GIB - 4))


def test_one_measurement_that_is_far_off_is_believed_at_its_size_only() -> None:
    once = law(measured(40, preset(64, 64, 8)))
    assert gib(once, preset(64, 64, 8)) == pytest.approx(40)
    assert gib(once, preset(1024, 1024, 32)) < 4 + 4 * (PRIOR.peak_bytes(preset(1024, 1024, 32), 1) / GIB)


def test_several_sizes_give_a_line() -> None:
    """Weights that take 1 GiB more than the table says, and 0.8 GiB for a million pixels instead of 0.5."""
    sizes = [preset(256, 256, 8), preset(512, 512, 16), preset(768, 768, 16)]
    found = law(*(measured(5 + 0.8 * each.width * each.height * each.frames / 1e6, each) for each in sizes))
    large = preset(1024, 1024, 32)
    assert gib(found, large) == pytest.approx(5 + 0.8 * 1024 * 1024 * 32 / 1e6, rel=0.01)


def test_one_odd_measurement_does_not_turn_the_line() -> None:
    sizes = [preset(256, 256, 8), preset(512, 512, 16), preset(640, 640, 16), preset(768, 768, 16)]
    fine = [measured(4 + 0.5 * each.width * each.height * each.frames / 1e6, each) for each in sizes]
    odd = replace(fine[1], peak_bytes=round(3.9 * GIB))
    assert gib(law(*fine, odd), preset(1024, 1024, 32)) == pytest.approx(4 + 0.5 * 33.55, rel=0.05)


SIZES = st.builds(
    preset,
    st.sampled_from([64, 256, 512, 1024]),
    st.sampled_from([64, 256, 576]),
    st.integers(1, 32),
)
KNOWN = st.lists(st.builds(measured, st.floats(0.1, 60), SIZES, batch=st.integers(1, 4)), max_size=8)


@given(KNOWN, SIZES, SIZES, st.integers(1, 4))
def test_it_never_says_less_than_was_seen_at_that_size_or_a_smaller_one(
    known: list[Measurement], one: Preset, other: Preset, batch: int
) -> None:
    found = law(*known)
    for each in known:
        if each.width * each.height <= one.width * one.height and each.frames <= one.frames and each.batch <= batch:
            assert found.peak_bytes(one, batch) >= each.peak_bytes
    small, large = sorted((one, other), key=lambda each: PRIOR.peak_bytes(each, batch))
    assert found.peak_bytes(small, batch) <= found.peak_bytes(large, batch)


def test_what_was_not_measured_does_not_count() -> None:
    assert law(measured(0, preset())) == law()


def test_the_first_rung_that_fits_is_taken() -> None:
    wanted = preset()
    for free_gib, rung in ((12, "full"), (7, "offload"), (4, "groups")):
        found = plan(free_gib, wanted)
        assert isinstance(found, Fit)
        assert found.rung == rung
        assert found.needed_bytes == round(XL.rungs[rung].peak_bytes(wanted, 1) * RESERVE) <= free_gib * GIB
    small = plan(5.7, preset(256, 256, 8))
    assert isinstance(small, Fit)
    assert small.rung == "frames"  # decoding takes more than denoising there


def test_only_measurements_of_the_same_kind_count() -> None:
    wanted = preset()
    needed = round(XL.memory.peak_bytes(wanted, 1) * RESERVE)
    assert plan(12, wanted, *others(measured(30, wanted))) == Fit("full", needed)
    mine = plan(12, wanted, measured(8, wanted))
    assert isinstance(mine, Fit)
    assert mine == Fit("full", round(round(8 * GIB) * RESERVE))
    lower = plan(12, wanted, measured(30, wanted))
    assert isinstance(lower, Fit)
    assert lower.rung == "frames"


def test_what_our_own_worker_holds_can_be_used_and_the_first_use_of_a_gpu_takes_some() -> None:
    wanted, needed_gib = preset(), XL.memory.peak_bytes(preset(), 1) * RESERVE / GIB
    held = plan(needed_gib + 0.01, wanted, held_gib=4.7)
    fresh = plan(needed_gib + 0.01, wanted, held_gib=0)
    roomy = plan(needed_gib + 0.01 + memory.CONTEXT_BYTES / GIB, wanted, held_gib=0)
    assert [each.rung for each in (held, fresh, roomy) if isinstance(each, Fit)] == ["full", "offload", "full"]


def test_nothing_is_refused_where_nobody_knows_how_much_there_is() -> None:
    found = memory.plan(XL, (), None, preset(1280, 1280, 32), gpu="cpu", dtype="fp32")
    assert isinstance(found, Fit)
    assert found.rung == "full"


def test_on_the_cpu_there_is_nothing_to_move_weights_away_to() -> None:
    found = refused(plan(7, preset(), is_gpu=False))
    assert found.needed_bytes == round(XL.memory.peak_bytes(preset(), 1) * RESERVE)


def test_what_is_too_large_is_refused_with_numbers_and_what_would_help() -> None:
    holders = (Holder(4711, "python", round(6.1e9)), Holder(10, "Xorg", 50_000_000), Holder(1, "ours", 10**9))
    wanted = preset(1024, 576, 24)
    found = refused(plan(5, wanted, total_gib=24, holders=holders, own=(1,)))
    assert found.message == (
        "not enough memory: it needs 10.6 GB, and 5.4 GB can be had: 696x392 with 24 frames would fit; or free 5.2 GB "
        "(process 4711 python holds 6.1 GB, process 10 Xorg holds 50.0 MB)"
    )
    assert found.brief == "needs 10.6 GB, 5.4 GB free"
    with speaking("zh"):
        assert found.brief == "需要 10.6 GB，可用 5.4 GB"
        assert found.message == (
            "内存或显存不足：需要 10.6 GB，可用 5.4 GB：696x392、24 帧则放得下；或再腾出 5.2 GB"
            "（进程 4711 python 占用 6.1 GB、进程 10 Xorg 占用 50.0 MB）"
        )


def test_fewer_frames_are_named_where_that_is_nearer() -> None:
    """AnimateDiff has few sizes: the next smaller one would be 704x704."""
    spec = CATALOG.model("animatediff")
    wanted = spec.preset("24gb")
    found = refused(plan(9, wanted, spec=spec))
    assert found.nearest == (replace(wanted, frames=21), 1)
    assert "768x768 with 21 frames would fit; or free" in found.message


@given(
    st.sampled_from(sorted(CATALOG.models)), st.sampled_from(sorted(XL.presets)), st.floats(1.5, 20), st.integers(1, 4)
)
def test_what_is_named_fits_and_is_possible(model: str, name: str, free_gib: float, batch: int) -> None:
    spec = CATALOG.model(model)
    wanted = spec.presets.get(name, spec.preset("standard"))
    found = plan(free_gib, wanted, batch=batch, spec=spec)
    if isinstance(found, Refusal) and found.nearest is not None:
        nearest, fewer = found.nearest
        assert spec.limits.excess(nearest) is None
        assert isinstance(plan(free_gib, nearest, batch=fewer, spec=spec), Fit)
        if (fewer, nearest) != (batch, wanted) and fewer == 1:
            assert nearest.width * nearest.height * nearest.frames <= wanted.width * wanted.height * wanted.frames
        assert replace(nearest, width=wanted.width, height=wanted.height, frames=wanted.frames) == wanted


def test_fewer_videos_at_once_are_named_first() -> None:
    found = refused(plan(7, preset(), batch=4))
    assert found.nearest == (preset(), 2)
    assert "2 at once would fit; or free" in found.message


def test_where_nothing_fits_that_is_said_and_a_full_card_is_not_told_to_be_freed() -> None:
    found = refused(plan(0.2, preset(1280, 720, 32), total_gib=4, held_gib=0.1))
    assert found.nearest is None
    assert found.message == (
        "not enough memory: it needs 21.8 GB, and 215 MB can be had: nothing smaller fits, either; there is no more "
        "than 4.3 GB in all"
    )


def test_time_is_only_known_where_it_was_measured() -> None:
    assert seconds_of([], preset()) is None
    assert seconds_of(others(measured(5, preset())), preset()) is None


def seconds_of(known: list[Measurement], wanted: Preset, batch: int = 1) -> float | None:
    return memory.seconds(known, wanted, batch, gpu=CARD, model="i2vgen-xl", dtype="fp16")


def test_time_grows_with_steps_and_pixels_and_decoding_counts_once() -> None:
    """0.25 s a step and 1 s for decoding."""
    known = [measured(5, preset(steps=steps), seconds=1 + 0.25 * steps) for steps in (2, 6)]
    assert seconds_of(known, preset(steps=40)) == pytest.approx(11)
    assert seconds_of(known, preset(steps=40), batch=2) == pytest.approx(22)
    assert seconds_of(known[:1], preset(steps=40)) == pytest.approx(40 * 1.5 / 2)  # no second number of steps


def test_time_is_taken_from_sizes_that_are_near() -> None:
    small = measured(5, preset(256, 256, 8), seconds=4.0)
    same = measured(7, preset(), seconds=10.0)
    assert seconds_of([small, same], preset()) == pytest.approx(10)
    assert seconds_of([small], preset()) == pytest.approx(4 * 8)
