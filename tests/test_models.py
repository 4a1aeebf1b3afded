"""jingxiang.models"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang import models
from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.models import GIB, Catalog, Limits, Memory, ModelSpec, Preset

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
fps = [4, 30]
guidance = [1.0, 12]

[smoke.advice]
steps = [2, 8]

[smoke.memory]
weights_gib = 0.5
denoising_gib = 1
decoding_gib = 2.0
decode_chunk = 4

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
                limits=Limits(width=256, height=256, multiple=8, frames=32, steps=100, fps=(4, 30), guidance=(1.0, 12)),
                advice={"steps": (2, 8)},
                parameters={},
                rungs={"full": Memory(0.5, denoising_gib=1.0, decoding_gib=2.0, decode_chunk=4, decoder_gib=0.5)},
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
        ("threads", "thread", "smoke.thread: no key named 'thread'; there is advice, limits, memory, "
         "notice, parameters, pipeline, presets, threads, title, weights (did you mean 'threads'?)"),
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
        ("fps = [4, 30]\n", "", "smoke.limits.fps: is missing; it should be a list"),
        ("[4, 30]", "[30, 4]", "smoke.limits.fps: should be two numbers, the smaller one first"),
        ("fps = 8", "fps = 3", "smoke.presets.standard.fps: should be from 4 to 30"),
        ("guidance = 9.0", "guidance = 12.5", "smoke.presets.standard.guidance: should be from 1 to 12"),
        ("steps = [2, 8]", "frames = [2, 8]", "smoke.advice.frames: no key named 'frames'; there is fps, guidance, "
         "steps"),
        ("[smoke.advice]", "[smoke.parameters]\nmotion_bucket_id = 9\n[smoke.advice]",
         "smoke.parameters.motion_bucket_id: no key named 'motion_bucket_id'; there is "),
        ('"i2vgen-xl"', '"svd"', "smoke.parameters.min_guidance_scale: is missing; it should be a number"),
        ("[smoke.memory]", "[smoke.memry]", "smoke.memry: no key named 'memry'; there is advice, limits, memory, "
         "notice, parameters, pipeline, presets, threads, title, weights (did you mean 'memory'?)"),
        ("decode_chunk = 4", "decode_chunk = 0", "smoke.memory.decode_chunk: should be at least 1"),
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


def test_settings_that_are_possible_but_not_wise_are_known(tmp_path: Path) -> None:
    smoke = load(tmp_path, SMOKE).model("smoke")
    assert smoke.unwise(smoke.preset("standard")) == {"steps": (2, 8)}
    assert smoke.unwise(smoke.preset("fast")) == {}


def test_only_stable_video_diffusion_takes_no_prompt() -> None:
    catalog = models.load(ROOT / "app" / "models.toml")
    taking = {name: spec.takes_prompt for name, spec in catalog.models.items()}
    assert taking == {"i2vgen-xl": True, "svd-xt": False, "animatediff": True, "smoke": True}


# Peaks that were allocated on an H100 with full-size models of random weights: width, height, frames, videos at once,
# GiB (torch 2.11, diffusers 0.42).
PEAKS = {
    "i2vgen-xl": [
        (256, 256, 8, 1, 5.19), (512, 512, 16, 1, 7.29), (512, 512, 24, 1, 8.6), (768, 768, 16, 1, 10.5),
        (768, 768, 24, 1, 13.43), (1024, 1024, 16, 1, 15.04), (1024, 1024, 32, 1, 25.38), (512, 512, 16, 2, 9.88),
        (512, 512, 16, 3, 12.5), (512, 512, 16, 4, 15.07),
    ],
    "svd-xt": [
        (576, 320, 14, 1, 6.74), (512, 512, 16, 1, 8.29), (1024, 576, 14, 1, 12.19), (1024, 576, 25, 1, 12.14),
        (768, 448, 25, 1, 8.86), (576, 320, 14, 2, 6.99), (576, 320, 14, 4, 9.72), (1024, 576, 25, 2, 19.78),
        (1024, 1024, 25, 1, 18.27),
    ],
    "animatediff": [
        (256, 256, 8, 1, 4.28), (384, 384, 16, 1, 5.25), (512, 512, 16, 1, 6.38), (512, 512, 24, 1, 7.68),
        (768, 768, 16, 1, 9.63), (768, 768, 32, 1, 15.47), (512, 512, 16, 2, 8.98), (512, 512, 16, 4, 14.18),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PEAKS)
def test_the_memory_law_is_within_a_tenth_of_a_gib_of_what_was_measured(name: str) -> None:
    memory = models.load(ROOT / "app" / "models.toml").model(name).memory
    for width, height, frames, batch, measured in PEAKS[name]:
        preset = Preset(width, height, frames, steps=20, fps=8, guidance=3.0)
        assert memory.peak_bytes(preset, batch) / GIB == pytest.approx(measured, abs=0.1)


# Likewise on the lower rungs, on an H200.
LOWER_PEAKS = {
    ("i2vgen-xl", "frames"): [(256, 256, 8, 1, 5.0), (512, 512, 16, 1, 7.26), (768, 768, 24, 1, 13.4)],
    ("i2vgen-xl", "offload"): [
        (256, 256, 8, 1, 3.16), (512, 512, 16, 1, 5.43), (768, 768, 24, 1, 11.57), (512, 512, 16, 2, 8.02),
    ],
    ("i2vgen-xl", "groups"): [(448, 256, 8, 1, 0.76), (680, 384, 16, 1, 2.77)],
    ("svd-xt", "offload"): [
        (576, 320, 14, 1, 4.42), (1024, 576, 14, 1, 8.14), (1024, 576, 25, 1, 10.81), (576, 320, 14, 2, 5.78),
    ],
    ("svd-xt", "groups"): [
        (576, 320, 14, 1, 2.69), (1024, 576, 14, 1, 8.14), (1024, 576, 25, 1, 8.09), (576, 320, 14, 2, 2.94),
    ],
    ("animatediff", "frames"): [(256, 256, 8, 1, 4.05), (512, 512, 16, 1, 6.32), (768, 768, 16, 1, 9.57)],
    ("animatediff", "offload"): [
        (256, 256, 8, 1, 3.82), (512, 512, 16, 1, 6.1), (768, 768, 16, 1, 9.34), (512, 512, 16, 2, 8.7),
    ],
    ("animatediff", "groups"): [
        (256, 256, 8, 1, 0.52), (512, 512, 16, 1, 2.79), (768, 768, 16, 1, 6.04), (512, 512, 16, 2, 5.39),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "rung"), LOWER_PEAKS)
def test_so_it_is_on_the_lower_rungs(name: str, rung: str) -> None:
    memory = models.load(ROOT / "app" / "models.toml").model(name).rungs[rung]
    for width, height, frames, batch, measured in LOWER_PEAKS[name, rung]:
        preset = Preset(width, height, frames, steps=20, fps=8, guidance=3.0)
        assert memory.peak_bytes(preset, batch) / GIB == pytest.approx(measured, abs=0.1)


def test_a_rung_says_what_is_other_than_on_the_first_one(tmp_path: Path) -> None:
    rungs = "decode_chunk = 4\nrungs.offload = { weights_gib = 0.25, decoder_gib = 0.125 }\n"
    smoke = load(tmp_path, SMOKE.replace("decode_chunk = 4\n", rungs)).model("smoke")
    assert list(smoke.rungs) == ["full", "offload"]
    assert smoke.rungs["offload"] == Memory(0.25, denoising_gib=1, decoding_gib=2, decode_chunk=4, decoder_gib=0.125)
    still = Preset(1000, 1000, frames=4, steps=1, fps=8, guidance=3.0)
    assert smoke.rungs["offload"].peak_bytes(still, 1) == 8.125 * GIB  # decoding, without what denoises


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ("rungs.slow = { decode_chunk = 1 }", "smoke.memory.rungs.slow: no key named 'slow'; there is frames, groups, "
         "offload"),
        ("rungs.frames = { decode_chunk = 0 }", "smoke.memory.rungs.frames.decode_chunk: should be at least 1"),
        ("rungs.frames = { chunk = 0 }", "smoke.memory.rungs.frames.chunk: no key named 'chunk'; there is "
         "decode_chunk, decoder_gib, decoding_gib, denoising_gib, weights_gib (did you mean 'decode_chunk'?)"),
        ("rungs.frames = { rungs = {} }", "smoke.memory.rungs.frames.rungs: no key named 'rungs'; there is "
         "decode_chunk, decoder_gib, decoding_gib, denoising_gib, weights_gib"),
    ],
)  # fmt: skip
def test_a_broken_rung_is_said_with_the_place(tmp_path: Path, rungs: str, message: str) -> None:
    with pytest.raises(JingxiangError) as caught:
        load(tmp_path, SMOKE.replace("decode_chunk = 4\n", f"decode_chunk = 4\n{rungs}\n"))
    assert caught.value.message == f"app/models.toml: {message}"


def test_numbers_of_four_bytes_take_twice_as_much(tmp_path: Path) -> None:
    smoke = load(tmp_path, SMOKE).model("smoke")
    half, whole = (smoke.memory.peak_bytes(smoke.preset("fast"), 1, number_bytes=number) for number in (2, 4))
    assert whole == pytest.approx(2 * half, abs=1)


def test_a_video_is_decoded_in_parts_of_nearly_equal_length() -> None:
    memory = Memory(weights_gib=0, denoising_gib=0, decoding_gib=1, decode_chunk=8, decoder_gib=0)
    assert [memory.decode_parts(frames) for frames in (1, 8, 9, 25)] == [1, 1, 2, 4]
    nine = Preset(width=1000, height=1000, frames=9, steps=1, fps=8, guidance=3.0)
    assert memory.peak_bytes(nine, 4) == 5 * GIB  # 5 and 4 frames, whatever number of videos
