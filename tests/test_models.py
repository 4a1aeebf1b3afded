"""jingxiang.models"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang import models
from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.models import Catalog, Limits, ModelSpec, Preset

ROOT = Path(__file__).resolve().parent.parent

SMOKE = """
[smoke]
title = { en = "Smoke model", zh = "冒烟测试模型" }
pipeline = "i2vgen-xl"
notice = { en = "Noise.", zh = "噪声。" }
threads = 1

[smoke.limits]
width = 256
height = 256
multiple = 8
frames = 32
steps = 100

[smoke.presets.standard]
width = 128
height = 96
frames = 16
steps = 10
fps = 8
guidance = 9.0

[smoke.presets.fast]
width = 64
height = 48
frames = 8
steps = 4
fps = 8
guidance = 9
"""


def load(tmp_path: Path, text: str) -> Catalog:
    path = tmp_path / "models.toml"
    path.write_text(text, encoding="utf-8")
    return models.load(path)


def test_a_model_is_read_with_its_presets(tmp_path: Path) -> None:
    assert load(tmp_path, SMOKE) == Catalog(
        {
            "smoke": ModelSpec(
                name="smoke",
                titles={"en": "Smoke model", "zh": "冒烟测试模型"},
                pipeline="i2vgen-xl",
                weights=None,
                notices={"en": "Noise.", "zh": "噪声。"},
                threads=1,
                limits=Limits(width=256, height=256, multiple=8, frames=32, steps=100),
                presets={
                    "standard": Preset(width=128, height=96, frames=16, steps=10, fps=8, guidance=9.0),
                    "fast": Preset(width=64, height=48, frames=8, steps=4, fps=8, guidance=9.0),
                },
            )
        }
    )


def test_a_model_uses_all_threads_unless_it_says_how_many(tmp_path: Path) -> None:
    assert load(tmp_path, SMOKE.replace("threads = 1\n", "")).model("smoke").threads == 0


def test_the_file_of_the_repository_can_be_used() -> None:
    catalog = models.load(ROOT / "app" / "models.toml")
    assert catalog.without_gpu == catalog.model("smoke")
    assert catalog.with_gpu in catalog.models.values()
    for spec in catalog.models.values():
        assert spec.limits.multiple % 8 == 0  # the VAE's scale
        assert all(preset.fps > 0 for preset in map(spec.preset, models.PRESETS))


def test_a_model_speaks_the_users_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = load(tmp_path, SMOKE).model("smoke")
    monkeypatch.setenv("JINGXIANG_LANG", "en")
    assert (smoke.title, smoke.notice) == ("Smoke model", "Noise.")
    monkeypatch.setenv("JINGXIANG_LANG", "zh")
    assert (smoke.title, smoke.notice) == ("冒烟测试模型", "噪声。")


WEIGHTS = f"""
[real.weights]
licence = {{ name = "MIT", url = "https://example.org", commercial = true, free = true }}

[real.weights.parts.model]
repository = "org/real"
revision = "{"0" * 40}"
files = ["*.safetensors"]
"""


def test_a_machine_with_a_gpu_runs_the_first_real_model(tmp_path: Path) -> None:
    assert load(tmp_path, SMOKE).with_gpu.name == "smoke"
    real = SMOKE.replace("smoke", "real") + WEIGHTS
    for text in (SMOKE + real, real + SMOKE):
        catalog = load(tmp_path, text)
        assert (catalog.with_gpu.name, catalog.without_gpu.name) == ("real", "smoke")


def test_an_unknown_model_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        load(tmp_path, SMOKE).model("smok")
    assert caught.value.message == ("app/models.toml: no model named 'smok'; there is smoke (did you mean 'smoke'?)")


def test_an_unknown_preset_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        load(tmp_path, SMOKE).model("smoke").preset("slow")
    assert caught.value.message == "app/models.toml: smoke: no preset named 'slow'; there is fast, standard"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threads", "thread", "smoke.thread: no key named 'thread'; there is limits, notice, pipeline, "
         "presets, threads, title, weights (did you mean 'threads'?)"),
        ('"i2vgen-xl"', '"wan"', "smoke.pipeline: 'wan' is not one of i2vgen-xl, svd, animatediff"),
        ('"Noise.", zh', '"Noise.", fr', "smoke.notice.fr: no key named 'fr'; there is en, zh"),
        (', zh = "噪声。"', "", "smoke.notice.zh: is missing; it should be a string"),
        ("[smoke.presets.fast]", "[smoke.presets.quick]",
         "smoke.presets.quick: no key named 'quick'; there is fast, standard"),
        ("frames = 8\n", "", "smoke.presets.fast.frames: is missing; it should be a whole number"),
        ("height = 96", "height = 96.5", "smoke.presets.standard.height: should be a whole number, not a number"),
        ("height = 96", "height = 100", "smoke.presets.standard.height: should be a multiple of 8"),
        ("frames = 16", "frames = 33", "smoke.presets.standard.frames: should be from 1 to 32"),
        ("steps = 4", "steps = 0", "smoke.presets.fast.steps: should be from 1 to 100"),
        ("multiple = 8\n", "", "smoke.limits.multiple: is missing; it should be a whole number"),
        ("guidance = 9.0", 'guidance = "9"', "smoke.presets.standard.guidance: should be a number, not a string"),
        ("fps = 8\nguidance = 9\n", "fsp = 8\n", "smoke.presets.fast.fsp: no key named 'fsp'; there is fps, frames, "
         "guidance, height, steps, width (did you mean 'fps'?)"),
    ],
)  # fmt: skip
def test_a_broken_model_is_said_with_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMOKE
    with pytest.raises(JingxiangError) as caught:
        load(tmp_path, SMOKE.replace(old, new, 1))
    assert (caught.value.message, caught.value.exit_code) == (f"app/models.toml: {message}", 2)


def test_without_a_name_the_machine_decides() -> None:
    catalog = models.load(ROOT / "app" / "models.toml")
    assert catalog.choose("", gpu=False).name == "smoke"
    assert catalog.choose("", gpu=True).name == "i2vgen-xl"
    assert catalog.choose("smoke", gpu=True).name == "smoke"
    with pytest.raises(UnknownName):
        catalog.choose("smok", gpu=True)
