"""app.pipelines, with the smoke model through the real diffusers pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app import pipelines
from app.pipelines import Request
from jingxiang import models as catalog

ROOT = Path(__file__).resolve().parent.parent
SPEC = catalog.load(ROOT / "app" / "models.toml").model("smoke")
PRESET = SPEC.preset("fast")


@pytest.fixture(scope="module")
def model(models: Path) -> pipelines.Model:
    return pipelines.load(SPEC, models / "smoke")


def request(seed: int = 7, prompt: str = "a cat turns its head", shade: int = 90) -> Request:
    return Request(Image.new("RGB", (200, 100), (shade, 30, 30)), prompt, PRESET, seed)


def ignore(done: int, of: int) -> None:
    pass


def test_frames_have_the_preset_s_shape_and_are_no_single_colour(model: pipelines.Model) -> None:
    frames = model.generate(request(), ignore)
    assert frames.shape == (PRESET.frames, PRESET.height, PRESET.width, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 5
    assert (frames[0] != frames[-1]).any()


def test_width_and_height_are_not_mixed_up(model: pipelines.Model) -> None:
    wide = replace(request(), preset=replace(PRESET, width=128, height=64, steps=1))
    assert model.generate(wide, ignore).shape == (PRESET.frames, 64, 128, 3)


def test_the_same_seed_gives_the_same_frames_whatever_ran_before(model: pipelines.Model) -> None:
    first = model.generate(request(), ignore)
    model.generate(request(seed=8), ignore)
    torch.rand(5)
    assert np.array_equal(model.generate(request(), ignore), first)


@pytest.mark.parametrize("other", [request(seed=8), request(prompt="rain"), request(shade=200)])
def test_seed_prompt_and_picture_each_change_the_video(model: pipelines.Model, other: Request) -> None:
    assert not np.array_equal(model.generate(other, ignore), model.generate(request(), ignore))


def test_each_step_is_reported_once(model: pipelines.Model) -> None:
    steps: list[tuple[int, int]] = []
    model.generate(request(), lambda done, of: steps.append((done, of)))
    assert steps == [(done, PRESET.steps) for done in range(1, PRESET.steps + 1)]


def test_a_step_may_stop_it_and_the_next_request_runs(model: pipelines.Model) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, of: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        model.generate(request(), stop)
    assert model.generate(request(), ignore).shape[0] == PRESET.frames


def test_numbers_that_are_no_picture_are_an_error(models: Path) -> None:
    broken = pipelines.I2VGenXL(models / "smoke")
    with torch.no_grad():
        next(broken.pipe.unet.parameters()).fill_(float("nan"))
    with pytest.raises(pipelines.BrokenOutput):
        broken.generate(request(), ignore)


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(pipelines.WeightsMissing, match="does not hold a model that can be loaded"):
        pipelines.load(SPEC, tmp_path)


def test_pickled_weights_are_never_loaded(models: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(models / "smoke", folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(pipelines.WeightsMissing):
        pipelines.load(SPEC, folder)
