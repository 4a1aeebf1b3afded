"""jingxiang.presets, and what models make of it"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jingxiang import models, presets
from jingxiang.errors import JingxiangError
from jingxiang.models import GIB, Limits, Preset
from tests.test_models import SMOKE, WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
CATALOG = models.load(ROOT / "app" / "models.toml")
REAL = ("i2vgen-xl", "svd-xt", "animatediff")
TEXT = """
[presets.standard]
pixels = 512
frames = 16
steps = 40
fps = 8
guidance = 9.0

[presets.fast]
pixels = 256
frames = 8
steps = 30
fps = 8
guidance = 9

[presets.large]
card_gib = 38.5
pixels = 1024
frames = 40
steps = 200
fps = 60
guidance = 15

[pipelines.i2vgen-xl]
shape = [4, 3]
fps = 12

[pipelines.i2vgen-xl.presets.fast]
width = 96
height = 64
"""
SPEC = SMOKE.partition("[smoke.presets.standard]")[0]


def load(tmp_path: Path, text: str = TEXT, table: str = SPEC) -> models.Catalog:
    (tmp_path / "presets.toml").write_text(text, encoding="utf-8")
    (tmp_path / "models.toml").write_text(table, encoding="utf-8")
    return models.load(tmp_path / "models.toml")


def test_a_model_without_its_own_gets_those_of_all_models(tmp_path: Path) -> None:
    """512 pixels squared in the shape of 4:3 are more than its 256x256, which is brought to its limit."""
    spec = load(tmp_path).model("smoke")
    assert spec.presets == {
        "standard": Preset(256, 192, frames=16, steps=40, fps=12, guidance=9.0),
        "fast": Preset(96, 64, frames=8, steps=30, fps=12, guidance=9.0),
    }


def test_what_a_model_says_itself_holds_and_the_rest_is_common(tmp_path: Path) -> None:
    spec = load(tmp_path, table=SPEC + "[smoke.presets.fast]\nwidth = 32\nsteps = 3\n").model("smoke")
    assert spec.preset("fast") == Preset(32, 64, frames=8, steps=3, fps=12, guidance=9.0)


def test_what_a_model_says_itself_must_be_possible(tmp_path: Path) -> None:
    with pytest.raises(JingxiangError) as caught:
        load(tmp_path, table=SPEC + "[smoke.presets.fast]\nsteps = 300\n")
    assert caught.value.message == "app/models.toml: smoke.presets.fast.steps: should be from 1 to 100"


def test_presets_for_large_cards_are_for_models_with_weights_from_outside(tmp_path: Path) -> None:
    real = load(tmp_path, table=SPEC.replace("smoke", "real") + WEIGHTS).model("real")
    assert real.preset("large") == Preset(256, 192, frames=32, steps=100, fps=12, guidance=12)
    assert "large" not in load(tmp_path).model("smoke").presets


@pytest.mark.parametrize(
    ("card_gib", "preset"),
    [(0, "standard"), (8, "standard"), (11.0, "12gb"), (12, "12gb"), (22.5, "24gb"), (24, "24gb"), (39.6, "40gb"),
     (140, "40gb")],
)  # fmt: skip
def test_a_card_has_its_preset(card_gib: float, preset: str) -> None:
    assert CATALOG.presets.for_card(round(card_gib * GIB)) == preset


def test_the_presets_of_the_repository_are_those_that_were_promised() -> None:
    """Of I2VGen-XL, in 16:9: no more pixels than 256, 512, 768 and 1024 squared, but for the size it was trained on."""
    found = {name: (each.width, each.height, each.frames, each.steps, each.fps, each.guidance)
             for name, each in CATALOG.model("i2vgen-xl").presets.items()}  # fmt: skip
    assert found == {
        "standard": (680, 384, 16, 40, 8, 9.0),
        "fast": (448, 256, 8, 30, 8, 9.0),
        "12gb": (680, 384, 16, 40, 8, 9.0),
        "24gb": (1024, 576, 24, 60, 12, 10.0),
        "40gb": (1280, 720, 32, 80, 24, 11.0),
    }


@pytest.mark.parametrize("name", REAL)
def test_every_preset_is_possible_and_fits_the_cards_that_it_is_for(name: str) -> None:
    spec = CATALOG.model(name)
    assert list(spec.presets) == ["standard", "fast", "12gb", "24gb", "40gb"]
    for each, preset in spec.presets.items():
        assert spec.limits.excess(preset) is None
        card_gib = CATALOG.presets.cards.get(each, 11.0)
        peaks = [memory.peak_bytes(preset, 1) / GIB for memory in spec.rungs.values()]
        assert min(peaks) * 1.1 + 0.75 < card_gib


def test_stable_video_diffusion_keeps_its_own_shape_and_little_guidance() -> None:
    for preset in CATALOG.model("svd-xt").presets.values():
        assert preset.width / preset.height == pytest.approx(16 / 9, abs=0.03)
        assert (preset.guidance, preset.fps) == (3.0, 7)


def test_the_smoke_model_stays_small() -> None:
    assert {name: (each.width, each.frames) for name, each in CATALOG.model("smoke").presets.items()} == {
        "standard": (128, 16), "fast": (64, 8),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pixels", "ratio", "size"),
    [
        (512, 1, (512, 512)), (768, 16 / 9, (1024, 576)), (1024, 16 / 9, (1280, 720)), (512, 4 / 3, (592, 440)),
        (512, 3 / 4, (440, 592)), (512, 10, (1280, 128)),
    ],
)  # fmt: skip
def test_a_size_has_the_shape_first_and_then_the_pixels(pixels: int, ratio: float, size: tuple[int, int]) -> None:
    assert CATALOG.model("i2vgen-xl").limits.size(pixels * pixels, ratio) == size


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 1024), st.sampled_from([8, 64]))
def test_a_size_is_always_possible(width: int, height: int, pixels: int, multiple: int) -> None:
    limits = Limits(1024, 768, multiple, frames=1, steps=1, fps=(1, 1), guidance=(1, 1))
    found = limits.size(pixels * pixels, width / height)
    assert limits.excess(Preset(*found, frames=1, steps=1, fps=1, guidance=1)) is None
    assert found[0] * found[1] <= pixels * pixels


def test_a_preset_can_be_brought_to_a_picture_s_shape() -> None:
    spec = CATALOG.model("i2vgen-xl")
    upright = spec.shaped(spec.preset("24gb"), 3 / 4)
    assert (upright.width, upright.height, upright.frames) == (664, 888, 24)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[presets.fast]", "[presets.quick]", "presets.fast: is missing; it should be a table"),
        ("pixels = 512", "pixel = 512", "presets.standard.pixel: no key named 'pixel'; there is card_gib, fps, frames, "
         "guidance, pixels, steps (did you mean 'pixels'?)"),
        ("frames = 16", "frames = 0", "presets.standard.frames: should be at least 1"),
        ("frames = 16", "frames = 16.5", "presets.standard.frames: should be a whole number, not a number"),
        ("guidance = 9.0", 'guidance = "9"', "presets.standard.guidance: should be a number, not a string"),
        ("[4, 3]", "[4]", "pipelines.i2vgen-xl.shape: should be two whole numbers, width and height"),
        ("[4, 3]", "[4, 0]", "pipelines.i2vgen-xl.shape: should be two whole numbers, width and height"),
        ("height = 64\n", "", "pipelines.i2vgen-xl.presets.fast.width: should be there with height, or both not"),
        (".presets.fast]\nwidth", ".presets.fats]\nwidth", "pipelines.i2vgen-xl.presets.fats: no key named 'fats'; "
         "there is fast, large, standard (did you mean 'fast'?)"),
        ("card_gib = 38.5", "card_gib = true", "presets.large.card_gib: should be a number, not true or false"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_said_with_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(JingxiangError) as caught:
        load(tmp_path, TEXT.replace(old, new, 1))
    assert (caught.value.message, caught.value.exit_code) == (f"{presets.FILE}: {message}", 2)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("i2vgen-xl", {"256p": (336, 192), "512p": (680, 384), "768p": (1024, 576), "1024p": (1280, 720)}),
        ("svd-xt", {"256p": (320, 192), "512p": (640, 384), "768p": (1024, 576)}),
        ("animatediff", {"256p": (256, 256), "512p": (512, 512), "768p": (768, 768)}),
        ("smoke", {"256p": (336, 192)}),
    ],
)
def test_sizes_are_those_that_a_model_can_make_in_its_shape(name: str, sizes: dict[str, tuple[int, int]]) -> None:
    spec = CATALOG.model(name)
    preset = spec.preset("fast")
    found = CATALOG.sizes(spec, preset)
    assert {title: (each.width, each.height) for title, each in found.items()} == sizes
    for each in found.values():
        assert spec.limits.excess(each) is None
        assert (each.frames, each.steps, each.guidance) == (preset.frames, preset.steps, preset.guidance)
