"""app.adapters: tiny models of each kind through the real pipelines of diffusers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app import adapters
from app.adapters.base import BrokenOutput, Diffusion, Made, Request, WeightsMissing
from app.texts import speaking
from app.video import Frames
from jingxiang import models as catalog
from jingxiang.models import GIB, ModelSpec
from tests.peers import tiny_models

# Of numpy 2, inside the scheduler of Stable Video Diffusion in diffusers 0.42.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROOT = Path(__file__).resolve().parent.parent
NAMES = ("smoke", "svd-xt", "animatediff")
PROMPTED = ("smoke", "animatediff")
# Videos of one batch against the same ones made alone, on a CPU: 8-bit values differ at most by this.
ROUNDING = 1


def spec(name: str) -> ModelSpec:
    """The model as the app has it, on one thread, which is the fastest for tiny ones."""
    return replace(catalog.load(ROOT / "app" / "models.toml").model(name), threads=1)


@pytest.fixture(scope="session")
def folders(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each model."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "smoke").symlink_to(models / "smoke")
    tiny_models.make(folder)
    return folder


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, folders: Path) -> Diffusion:
    return loaded(request.param, folders)


def loaded(name: str, folders: Path) -> Diffusion:
    found = adapters.load(spec(name), folders / name)
    assert isinstance(found, Diffusion)
    return found


def asked(
    model: Diffusion, seed: int = 7, prompt: str = "a cat turns its head", shade: int = 90,
    size: tuple[int, int] = (200, 100),
) -> Request:  # fmt: skip
    preset = replace(model.spec.preset("fast"), **tiny_models.SETTINGS)
    return Request(Image.blend(gradient(size), Image.new("RGB", size, (shade, 30, 30)), 0.5), prompt, preset, seed)


def gradient(size: tuple[int, int]) -> Image.Image:
    return Image.radial_gradient("L").resize(size).convert("RGB")


def ignore(done: int, of: int) -> None:
    pass


def made(model: Diffusion, *batch: Request) -> list[Made]:
    results = model.generate(batch, ignore).made
    assert len(results) == len(batch)
    found = [each for each in results if isinstance(each, Made)]
    assert len(found) == len(results)
    return found


def frames(model: Diffusion, request: Request) -> Frames:
    return made(model, request)[0].frames


def test_nothing_heavy_is_imported_before_a_model_is_loaded() -> None:
    code = "import sys; from app import adapters; print({'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_each_pipeline_has_an_adapter() -> None:
    assert set(adapters.ADAPTERS) == set(catalog.PIPELINES)


def test_frames_have_the_preset_s_shape_and_are_no_single_colour(model: Diffusion) -> None:
    request = asked(model)
    found = frames(model, replace(request, preset=replace(request.preset, width=128, height=64)))
    assert found.shape == (6, 64, 128, 3)
    assert found.dtype == np.uint8
    assert found.std() > 5
    assert (found[0] != found[-1]).any()


def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(model: Diffusion) -> None:
    first = frames(model, asked(model))
    frames(model, asked(model, seed=8))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert np.array_equal(frames(model, asked(model)), first)
    assert torch.equal(torch.get_rng_state(), before)  # what others draw is not touched, either


def test_seed_picture_and_prompt_each_change_the_video(model: Diffusion) -> None:
    first = frames(model, asked(model))
    assert not np.array_equal(frames(model, asked(model, seed=8)), first)
    assert not np.array_equal(frames(model, asked(model, shade=200)), first)
    assert np.array_equal(frames(model, asked(model, prompt="rain")), first) != model.spec.takes_prompt


def test_each_video_of_a_batch_is_as_if_it_were_made_alone(model: Diffusion) -> None:
    """Pictures of different sizes, and a temporal decoder, which must not look into the next video."""
    batch = [
        asked(model), asked(model, seed=8, prompt="rain falls", shade=200, size=(90, 130)),
        asked(model, seed=9, prompt="", shade=10, size=(64, 64)),
    ]  # fmt: skip
    together, alone = made(model, *batch), [frames(model, request) for request in batch]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.frames.astype(int) - other).max() <= ROUNDING
    assert (alone[0] != alone[1]).any()


def test_requests_that_differ_in_their_settings_are_no_batch(model: Diffusion) -> None:
    request = asked(model)
    other = replace(request, preset=replace(request.preset, steps=4))
    with pytest.raises(ValueError, match="different presets"):
        model.generate([request, other], ignore)


def test_each_step_is_reported_once(model: Diffusion) -> None:
    steps: list[tuple[int, int]] = []
    model.generate([asked(model)] * 2, lambda done, of: steps.append((done, of)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_step_may_stop_it_and_the_model_can_be_used_again(model: Diffusion) -> None:
    class Stop(Exception):
        pass

    steps = []

    def stop(done: int, of: int) -> None:
        steps.append(done)
        if done == 2:
            raise Stop

    first = frames(model, asked(model))
    with pytest.raises(Stop):
        model.generate([asked(model)], stop)
    assert steps == [1, 2]
    assert np.array_equal(frames(model, asked(model)), first)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("svd-xt", "motion_bucket_id", 1),
        ("svd-xt", "noise_aug_strength", 0.5),
        ("svd-xt", "min_guidance_scale", 2.5),
        ("animatediff", "controlnet_conditioning_scale", 0.2),
    ],
)
def test_the_parameters_of_the_table_reach_the_pipeline(folders: Path, name: str, parameter: str, value: float) -> None:
    usual, other = loaded(name, folders), loaded(name, folders)
    other.spec = replace(other.spec, parameters={**other.spec.parameters, parameter: value})
    assert not np.array_equal(frames(other, asked(other)), frames(usual, asked(usual)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["guidance", "fps"])
def test_guidance_changes_the_video_and_fps_does_where_the_model_knows_it(
    folders: Path, name: str, change: str
) -> None:
    model = loaded(name, folders)
    request = asked(model)
    other = replace(request, preset=replace(request.preset, **{change: getattr(request.preset, change) - 1}))
    same = np.array_equal(frames(model, other), frames(model, request))
    assert same == ((name, change) == ("animatediff", "fps"))


@pytest.mark.parametrize("name", PROMPTED)
def test_what_of_a_prompt_is_too_long_is_said(folders: Path, name: str) -> None:
    """75 tokens are read, and each letter is one for the tiny tokenizer."""
    model = loaded(name, folders)
    prompts = ["x" * 75, "X" * 75 + "Yz", "a cat " * 18 + "turns", "猫" * 25 + "转头"]
    found = made(model, *(asked(model, prompt=prompt) for prompt in prompts))
    assert [each.unread for each in found] == ["", "Yz", "ns", "转头"]


def test_a_model_without_a_prompt_leaves_nothing_unread(folders: Path) -> None:
    model = loaded("svd-xt", folders)
    assert made(model, asked(model, prompt="x" * 500))[0].unread == ""


def test_numbers_that_are_no_picture_are_said_and_do_not_break_the_rest_of_the_batch(folders: Path) -> None:
    model = loaded("smoke", folders)
    good = frames(model, asked(model))
    decode, calls = model._decoded, 0

    def spoilt(latents: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return decode(latents) * (float("nan") if calls == 1 else 1)

    model._decoded = spoilt  # type: ignore[method-assign]
    broken, whole = model.generate([asked(model, seed=8), asked(model)], ignore).made
    assert isinstance(broken, BrokenOutput)
    assert broken.message == "the model gave no picture (not a number); try another seed or fewer steps"
    assert isinstance(whole, Made)
    assert np.abs(whole.frames.astype(int) - good).max() <= ROUNDING


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_give_no_numbers_are_said(folders: Path, name: str) -> None:
    model = loaded(name, folders)
    with torch.no_grad():
        next(model.pipe.unet.parameters()).fill_(float("nan"))
    with speaking("zh"):
        (broken,) = model.generate([asked(model)], ignore).made
    assert isinstance(broken, BrokenOutput)
    assert broken.message == "模型没有给出画面（数值无效）；请换一个种子或减少步数"


@pytest.mark.parametrize("name", NAMES)
def test_a_black_video_is_said_unless_the_picture_is_black_too(folders: Path, name: str) -> None:
    model = loaded(name, folders)
    decoder = model.pipe.vae.decoder
    out = decoder.time_conv_out if name == "svd-xt" else decoder.conv_out
    with torch.no_grad():
        out.weight.zero_()
        out.bias.fill_(-1.0)
    black = replace(asked(model), image=Image.new("RGB", (64, 64)))
    broken, meant = model.generate([asked(model), black], ignore).made
    assert isinstance(broken, BrokenOutput)
    assert broken.message == "the model gave no picture (all black); try another seed or fewer steps"
    assert isinstance(meant, Made)
    assert meant.frames.max() == 0


def test_limits_and_memory_are_those_of_the_table(model: Diffusion) -> None:
    assert model.limits == model.spec.limits
    preset = model.spec.preset("standard")
    assert model.estimate(preset, 2) == model.spec.memory.peak_bytes(preset, 2, number_bytes=4)  # fp32 on the CPU
    assert model.estimate(preset, 4) > model.estimate(preset, 1) > model.spec.memory.weights_gib * GIB


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_a_model_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsMissing, match="does not hold a model that can be loaded"):
        adapters.load(spec(name), tmp_path)


@pytest.mark.parametrize(
    ("name", "part"),
    [("smoke", "unet"), ("svd-xt", "vae"), ("animatediff", "motion_adapter"), ("animatediff", "controlnet")],
)
def test_pickled_weights_are_never_loaded(folders: Path, tmp_path: Path, name: str, part: str) -> None:
    folder = tmp_path / name
    shutil.copytree(folders / name, folder)
    weights = folder / part / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(WeightsMissing):
        adapters.load(spec(name), folder)


@pytest.mark.parametrize("name", NAMES)
def test_weights_in_fp16_are_taken_where_they_are(folders: Path, tmp_path: Path, name: str) -> None:
    """As app/models.toml fetches them: without the files in fp32. The motion adapter and SparseCtrl may have either."""
    folder = tmp_path / name
    shutil.copytree(folders / name, folder)
    for path in [*folder.glob("*/*.safetensors")]:
        if path.parent.name != "controlnet":
            path.rename(path.with_suffix(".fp16.safetensors"))
    assert np.array_equal(
        frames(loaded(name, tmp_path), asked(loaded(name, folders))),
        frames(loaded(name, folders), asked(loaded(name, folders))),
    )


def test_the_motion_adapter_is_in_memory_once(folders: Path) -> None:
    model = loaded("animatediff", folders)
    assert model.pipe.motion_adapter is None
    assert any("motion_modules" in key for key, _ in model.pipe.unet.named_parameters())
