"""app.adapters: tiny models of each kind through the real pipelines of diffusers."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from app import adapters
from app.adapters import previews
from app.adapters.base import BrokenOutput, Diffusion, Look, Made, OutOfMemory, Request, WeightsMissing
from app.adapters.loading import Loading
from app.adapters.previews import Picture
from app.adapters.reading import DTYPES
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
    """The model as the app has it, with all rungs of its kind, on one thread, which is the fastest for tiny ones."""
    models = catalog.load(ROOT / "app" / "models.toml")
    kind = models.model("i2vgen-xl" if name == "smoke" else name)
    return replace(models.model(name), threads=1, rungs=kind.rungs)


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


def loaded(name: str, folders: Path, **options: str) -> Diffusion:
    found = adapters.load(spec(name), folders / name, **options)
    assert isinstance(found, Diffusion)
    return found


def networks(pipe: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def contents(part: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(part.named_parameters()), **dict(part.named_buffers())}


def as_documented(name: str, folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline as the documentation of diffusers loads it, one part after the other."""
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    kinds = {
        "smoke": diffusers.I2VGenXLPipeline,
        "svd-xt": diffusers.StableVideoDiffusionPipeline,
        "animatediff": diffusers.AnimateDiffSparseControlNetPipeline,
    }
    if name == "animatediff":
        options["motion_adapter"] = diffusers.MotionAdapter.from_pretrained(str(folder / "motion_adapter"), **options)
        options["controlnet"] = diffusers.SparseControlNetModel.from_pretrained(str(folder / "controlnet"), **options)
    return kinds[name].from_pretrained(str(folder), **options)


def asked(
    model: Diffusion, seed: int = 7, prompt: str = "a cat turns its head", shade: int = 90,
    size: tuple[int, int] = (200, 100), negative: str = "",
) -> Request:  # fmt: skip
    preset = replace(model.spec.preset("fast"), **tiny_models.SETTINGS)
    image = Image.blend(gradient(size), Image.new("RGB", size, (shade, 30, 30)), 0.5)
    return Request(image, prompt, preset, seed, negative)


def gradient(size: tuple[int, int]) -> Image.Image:
    return Image.radial_gradient("L").resize(size).convert("RGB")


def ignore(done: int, of: int, look: Look) -> None:
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
    code = (
        "import sys; from app import adapters, cards, memory; "
        "print({'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules))"
    )
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


def test_what_should_not_be_in_it_changes_the_video_of_a_model_with_a_prompt(model: Diffusion) -> None:
    """As far as it is read: 75 tokens, each letter being one for the tiny tokenizer; the rest is not called unread."""
    first, other = frames(model, asked(model)), made(model, asked(model, negative="blurry"))[0]
    assert np.array_equal(other.frames, first) != model.spec.takes_prompt
    assert np.array_equal(frames(model, asked(model, negative="rain")), other.frames) != model.spec.takes_prompt
    long = [made(model, asked(model, negative="x" * 75 + end))[0] for end in ("", " yz")]
    assert np.array_equal(long[0].frames, long[1].frames)
    assert long[1].unread == ""


@pytest.mark.parametrize("name", PROMPTED)
def test_an_empty_negative_prompt_is_as_if_the_pipeline_were_given_none(folders: Path, name: str) -> None:
    model = loaded(name, folders)
    first, call = frames(model, asked(model)), type(model.pipe).__call__
    given: list[list[str]] = []

    class Without(type(model.pipe)):  # type: ignore[misc]
        def __call__(self, *, negative_prompt: list[str], **named: Any) -> Any:
            given.append(negative_prompt)
            return call(self, **named)

    model.pipe.__class__ = Without
    assert np.array_equal(frames(model, asked(model)), first)
    assert given == [[""]]


def test_each_video_of_a_batch_is_as_if_it_were_made_alone(model: Diffusion) -> None:
    """Pictures of different sizes, and a temporal decoder, which must not look into the next video."""
    batch = [
        asked(model), asked(model, seed=8, prompt="rain falls", shade=200, size=(90, 130), negative="blurry"),
        asked(model, seed=9, prompt="", shade=10, size=(64, 64), negative="dark, and text"),
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
    model.generate([asked(model)] * 2, lambda done, of, look: steps.append((done, of)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_step_can_be_looked_at(model: Diffusion) -> None:
    """Each video of a batch as it would be looked at alone, and each step another picture."""
    batch = [asked(model), asked(model, seed=8, shade=200)]
    batch = [replace(each, preset=replace(each.preset, width=128, height=64)) for each in batch]

    def looked(*wanted: Request) -> list[list[Picture]]:
        found: list[list[Picture]] = []

        def on_step(done: int, of: int, look: Look) -> None:
            pictures = [look(number) for number in range(len(wanted))]
            found.append([each for each in pictures if each is not None])

        model.generate(wanted, on_step)
        return found

    together, alone = looked(*batch), [looked(each) for each in batch]
    assert [len(pictures) for pictures in together] == [2, 2, 2]
    for step, pictures in enumerate(together):
        for number, shown in enumerate(pictures):
            assert shown.shape == (8, 16, 3)
            assert shown.dtype == np.uint8
            assert shown.std() > 5
            assert np.abs(shown.astype(int) - alone[number][step][0]).max() <= ROUNDING
        assert (pictures[0] != pictures[1]).any()
    assert (together[0][0] != together[1][0]).any()
    assert (together[1][0] != together[2][0]).any()


def test_what_is_seen_at_the_last_step_is_the_middle_frame(model: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """All schedulers end where they expected to: with what the decoder is given."""
    seen: list[Picture | None] = []
    batch = [asked(model), asked(model, seed=8)]
    decoded: list[torch.Tensor] = []
    pixels = model._pixels

    def noted(latents: torch.Tensor, rung: str) -> torch.Tensor:
        decoded.append(latents)
        return pixels(latents, rung)

    monkeypatch.setattr(model, "_pixels", noted)
    model.generate(batch, lambda done, of, look: seen.extend(map(look, (0, 1)) if done == of else ()))
    for shown, latents in zip(seen, decoded, strict=True):
        whole = previews.picture(latents[3])
        assert shown is not None
        assert whole is not None
        assert np.abs(shown.astype(int) - whole).max() <= 3
        assert (whole != previews.picture(latents[2])).any()


def test_looking_changes_nothing_and_not_looking_costs_nothing(
    model: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    (watched,) = model.generate([asked(model)], lambda done, of, look: seen.append(look(0))).made
    assert isinstance(watched, Made)
    assert len(seen) == 3
    steps = type(model.pipe.scheduler).step
    monkeypatch.setattr(previews, "picture", None)  # would be an error
    assert np.array_equal(frames(model, asked(model)), watched.frames)
    assert model.pipe.scheduler.step.__func__ is steps  # nobody is left in between


def test_what_is_no_picture_is_not_shown(folders: Path) -> None:
    model = loaded("smoke", folders)
    with torch.no_grad():
        next(model.pipe.unet.parameters()).fill_(float("nan"))
    seen: list[Picture | None] = []
    model.generate([asked(model)], lambda done, of, look: seen.append(look(0)))
    assert seen == [None, None, None]


def test_a_preview_has_the_colours_of_the_latents() -> None:
    latents = torch.zeros(4, 2, 3)
    latents[0, 0, 0], latents[3, 1, 2], latents[:, 0, 2] = 2.0, -1.0, 1e4
    shown = previews.picture(latents.half())
    assert shown is not None
    assert shown[0, 0].tolist() == [203, 180, 181]
    assert shown[1, 2].tolist() == [151, 162, 188]
    assert shown[0, 1].tolist() == [128, 128, 128]
    assert shown[0, 2].tolist() == [255, 255, 255]
    assert previews.picture(torch.full((4, 1, 1), float("inf"))) is None


def test_a_step_may_stop_it_and_the_model_can_be_used_again(model: Diffusion) -> None:
    class Stop(Exception):
        pass

    steps = []

    def stop(done: int, of: int, look: Look) -> None:
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_is_what_from_pretrained_gives(folders: Path, name: str, dtype: str) -> None:
    """Every weight and buffer: name, type and bytes."""
    ours = networks(loaded(name, folders, dtype=dtype).pipe)
    theirs = networks(as_documented(name, folders / name, DTYPES[dtype]))
    theirs.pop("motion_adapter", None)
    assert ours.keys() == theirs.keys()
    for part, network in ours.items():
        own, other = contents(network), contents(theirs[part])
        assert own.keys() == other.keys()
        for key, tensor in own.items():
            assert tensor.dtype == other[key].dtype
            assert torch.equal(tensor, other[key]), (part, key)
        assert not network.training


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_model_computes_in_the_type_that_was_chosen(folders: Path, dtype: str) -> None:
    model = loaded("smoke", folders, dtype=dtype)
    assert {part.dtype for part in networks(model.pipe).values()} == {DTYPES[dtype]}
    whole = loaded("smoke", folders)
    assert (model.dtype_name, whole.dtype_name) == (dtype, "fp32")
    off = np.abs(frames(model, asked(model)).astype(int) - frames(whole, asked(whole)))
    assert 0 < off.mean() < 3
    assert model.estimate(model.spec.preset("fast"), 1) * 2 == pytest.approx(
        whole.estimate(whole.spec.preset("fast"), 1), abs=2
    )


def test_weights_with_the_names_of_older_libraries_and_in_several_files_are_loaded(
    folders: Path, tmp_path: Path
) -> None:
    """As they are published: Stable Diffusion's VAE, CLIP of before transformers 5.6; and a network that is split."""
    folder = tmp_path / "animatediff"
    shutil.copytree(folders / "animatediff", folder)

    def rename(file: Path, change: Callable[[str], str]) -> None:
        tensors = {change(key): tensor for key, tensor in load_file(file).items()}
        assert tensors.keys() != load_file(file).keys()
        save_file(tensors, file, metadata={"format": "pt"})

    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(key: str) -> str:
        for new, name in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        return key

    rename(folder / "vae" / "diffusion_pytorch_model.safetensors", older)
    rename(folder / "text_encoder" / "model.safetensors", lambda key: f"text_model.{key}")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = list(load_file(whole).items())
    whole.unlink()
    for part, share in enumerate((tensors[::2], tensors[1::2]), start=1):
        name = f"diffusion_pytorch_model-{part:05}-of-00002.safetensors"
        save_file(dict(share), folder / "unet" / name, metadata={"format": "pt"})
    usual = loaded("animatediff", folders)
    assert np.array_equal(frames(loaded("animatediff", tmp_path), asked(usual)), frames(usual, asked(usual)))


@pytest.mark.parametrize(("name", "part"), [("smoke", "unet"), ("smoke", "text_encoder"), ("svd-xt", "vae")])
def test_a_part_that_lacks_weights_is_said_and_not_filled_with_random_ones(
    folders: Path, tmp_path: Path, name: str, part: str
) -> None:
    folder = tmp_path / name
    shutil.copytree(folders / name, folder)
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    tensors.pop(min(tensors))
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsMissing, match=f"{part}: .* is not there"):
        adapters.load(spec(name), folder)


def test_models_that_are_loaded_at_the_same_time_are_whole(folders: Path) -> None:
    found: dict[str, Diffusion] = {}

    def load(name: str) -> None:
        found[name] = loaded(name, folders, dtype="fp16" if name == "svd-xt" else "fp32")

    threads = [threading.Thread(target=load, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.get_default_dtype() == torch.float32
    for name in NAMES:
        dtypes = {part.dtype for part in networks(found[name].pipe).values()}
        assert dtypes == {torch.float16 if name == "svd-xt" else torch.float32}
        assert frames(found[name], asked(found[name])).std() > 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rung", ["full", "offload", "groups"])
def test_nothing_of_a_closed_model_is_left_in_memory(folders: Path, name: str, rung: str) -> None:
    model = loaded(name, folders)
    model.generate([asked(model)], ignore, rung)
    parts = [weakref.ref(part) for part in networks(model.pipe).values()]
    weights = [weakref.ref(tensor) for part in networks(model.pipe).values() for tensor in part.parameters()]
    model.close()
    model.close()
    assert [ref() for ref in parts + weights] == [None] * len(parts + weights)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_load_that_fails_is_left_in_memory(
    folders: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    weights: list[weakref.ref[torch.Tensor]] = []

    def fail(self: Loading, kind: Any, networks: dict[str, Any], **arguments: Any) -> Any:
        parts = [part for part in networks.values() if part is not None]
        weights.extend(weakref.ref(tensor) for part in parts for tensor in part.parameters())
        raise RuntimeError("broken\nand more")

    monkeypatch.setattr(Loading, "pipeline", fail)
    with pytest.raises(WeightsMissing) as caught:
        adapters.load(spec(name), folders / name)
    assert caught.value.message.endswith("RuntimeError: broken")
    assert weights
    assert {ref() for ref in weights} == {None}


def test_a_load_for_which_there_is_no_memory_says_that(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Loading) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loading, "networks", fail)
    with pytest.raises(OutOfMemory, match=r"it needs about 10\.1 GB by estimate"):
        adapters.load(spec("smoke"), folders / "smoke")


RUNGS = [(name, rung) for name in NAMES for rung in spec(name).rungs if rung != "full"]


@pytest.mark.parametrize(("name", "rung"), RUNGS)
def test_a_video_is_the_same_on_all_rungs(folders: Path, name: str, rung: str) -> None:
    """Where frames are decoded one by one, but for the last digits; Stable Video Diffusion never does that."""
    model = loaded(name, folders)
    first = frames(model, asked(model))
    outcome = model.generate([asked(model)] * 2, ignore, rung)
    for each in outcome.made:
        assert isinstance(each, Made)
        assert np.abs(each.frames.astype(int) - first).max() <= ROUNDING
    assert (outcome.rung, outcome.retried_from) == (rung, "")
    assert np.array_equal(frames(model, asked(model)), first)  # and back


@pytest.mark.parametrize(("name", "rung"), [("smoke", "offload"), ("svd-xt", "groups")])
def test_a_model_may_be_loaded_to_a_lower_rung(folders: Path, name: str, rung: str) -> None:
    usual, model = loaded(name, folders), loaded(name, folders, rung=rung)
    made = model.generate([asked(model)], ignore, rung).made[0]
    assert isinstance(made, Made)
    assert np.abs(made.frames.astype(int) - frames(usual, asked(usual))).max() <= ROUNDING


def test_stable_video_diffusion_decodes_the_same_frames_together_on_all_rungs() -> None:
    assert len({memory.decode_chunk for memory in spec("svd-xt").rungs.values()}) == 1
    assert "frames" not in spec("svd-xt").rungs


def test_frames_are_decoded_one_by_one_below_the_first_rung(folders: Path) -> None:
    model = loaded("smoke", folders)
    decode, lengths = model._decoded, []

    def noted(latents: torch.Tensor) -> torch.Tensor:
        lengths.append(len(latents))
        return decode(latents)

    model._decoded = noted  # type: ignore[method-assign]
    model.generate([asked(model)], ignore, "full")
    model.generate([asked(model)], ignore, "frames")
    assert lengths == [3, 3] + [1] * 6


SCARCE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


class Failing:
    """Lets a model's network fail so many times, in its second step, with tensors in its hands."""

    def __init__(self, model: Diffusion, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0
        self.held: list[weakref.ref[torch.Tensor]] = []
        self.forward = model.pipe.unet.forward
        model.pipe.unet.forward = self

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls % 2 == 0 and self.times:
            held = torch.zeros(1000)
            self.held.append(weakref.ref(held))
            self.times -= 1
            raise type(self.error)(*self.error.args)
        return self.forward(*arguments, **named)


@pytest.mark.parametrize("error", SCARCE, ids=lambda error: str(error)[:12])
@pytest.mark.parametrize(("name", "lower"), [("smoke", "frames"), ("svd-xt", "offload"), ("animatediff", "frames")])
def test_if_memory_runs_out_it_is_tried_once_more_on_the_next_rung(
    folders: Path, name: str, lower: str, error: Exception
) -> None:
    model = loaded(name, folders)
    first = frames(model, asked(model))
    failing, steps = Failing(model, error, times=1), []
    outcome = model.generate([asked(model)], lambda done, of, look: steps.append(done))
    assert (outcome.rung, outcome.retried_from) == (lower, "full")
    (made,) = outcome.made
    assert isinstance(made, Made)
    assert np.abs(made.frames.astype(int) - first).max() <= ROUNDING
    assert steps == [1, 1, 2, 3]  # from the start
    assert [ref() for ref in failing.held] == [None]


def test_a_rung_that_needs_as_much_is_passed_over(folders: Path) -> None:
    """With many frames denoising takes most, and decoding them one by one would not help."""
    model = loaded("smoke", folders)
    Failing(model, SCARCE[0], times=1)
    request = asked(model)
    outcome = model.generate([replace(request, preset=replace(request.preset, frames=16))], ignore)
    assert (outcome.rung, outcome.retried_from) == ("offload", "full")


@pytest.mark.parametrize("name", NAMES)
def test_if_memory_runs_out_twice_it_is_said_with_numbers_and_the_model_can_be_used_again(
    folders: Path, name: str
) -> None:
    model = loaded(name, folders)
    first, failing = frames(model, asked(model)), Failing(model, SCARCE[0], times=2)
    with pytest.raises(OutOfMemory) as caught:
        model.generate([asked(model)], ignore)
    assert caught.value.needed_bytes == model.estimate(asked(model).preset, 1, list(model.spec.rungs)[1])
    assert caught.value.message.startswith("out of memory: it needs about ")
    assert caught.value.usable_bytes > 0
    assert caught.value.__cause__ is caught.value.__context__ is None
    gc.collect()
    assert [ref() for ref in failing.held] == [None, None]
    assert np.array_equal(frames(model, asked(model)), first)


def test_on_the_last_rung_there_is_no_other_to_try(folders: Path) -> None:
    model = loaded("svd-xt", folders)
    model.use("groups")
    failing = Failing(model, SCARCE[0], times=1)
    with pytest.raises(OutOfMemory):
        model.generate([asked(model)], ignore, "groups")
    assert failing.times == 0


def test_other_errors_are_not_tried_again(folders: Path) -> None:
    model = loaded("smoke", folders)
    failing = Failing(model, RuntimeError("CUDA error: an illegal memory access was encountered"), times=1)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        model.generate([asked(model)], ignore)
    assert failing.calls == 2


def test_an_outcome_says_what_it_took(folders: Path) -> None:
    model = loaded("svd-xt", folders)
    small = model.generate([asked(model)], ignore)
    request = asked(model)
    large = model.generate([replace(request, preset=replace(request.preset, width=320, height=320))] * 4, ignore)
    assert 0 < small.peak_bytes < large.peak_bytes < 4 * GIB
    assert 0 < small.seconds < large.seconds
    assert model.held_bytes < large.peak_bytes
    assert (model.gpu, model.uuid) == ("cpu", "")


def test_a_class_that_is_not_of_the_two_libraries_is_not_imported(folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    shutil.copytree(folders / "smoke", folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["shutil", "rmtree"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsMissing):
        adapters.load(spec("smoke"), folder)


def test_the_motion_adapter_is_in_memory_once(folders: Path) -> None:
    model = loaded("animatediff", folders)
    assert model.pipe.motion_adapter is None
    assert any("motion_modules" in key for key, _ in model.pipe.unet.named_parameters())
