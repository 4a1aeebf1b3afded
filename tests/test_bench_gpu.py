"""ci.bench.gpu and what it is made of: on the CPU, with tiny models through the real pipelines"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType

from app.adapters.base import Diffusion
from ci.bench import gpu, memory
from ci.bench.gpu import Result
from ci.bench.memory import Peaks
from ci.bench.speed import cases, floor, kinds, quality
from ci.bench.speed.cases import Case
from ci.bench.speed.ours import Ours
from ci.bench.speed.stock import AUTOCAST, EAGER, OURS, STOCK, Stock
from jingxiang import models as catalog

# Of numpy 2, inside the scheduler of Stable Video Diffusion in diffusers 0.42; and PyTorch on a CPU without fp16.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module", params=cases.TINY)
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    ((found, _),) = cases.made(folder / "models", [request.param], tiny=True)
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_peer_makes_the_same_video_as_the_app_from_the_same_seed(case: Case, folder: Path) -> None:
    stock, own = Stock(case, torch.float32), Ours(case, folder / "artifacts")
    steps: list[int] = []
    reference = stock.decoded(stock.make(case.preset.steps, lambda: steps.append(1)))
    frames = own.make(case.preset.steps, lambda: steps.append(2))
    assert isinstance(own.model, Diffusion)
    own.model.close()
    assert own.how == "eager"
    assert steps == [1] * case.preset.steps + [2] * case.preset.steps
    assert frames.shape == (case.preset.frames, case.preset.height, case.preset.width, 3)
    assert int(np.abs(frames.astype(int) - reference).max()) <= 1
    assert quality.psnr_db(frames, reference) > 50


def test_each_model_can_be_run_under_autocast(case: Case) -> None:
    stock = Stock(case, torch.float32, autocast=True)
    latents = stock.make(2, lambda: None)
    assert latents.isfinite().all()
    assert stock.pipe.vae.dtype == torch.float32


def test_what_is_computed_grows_with_the_steps_alone(case: Case) -> None:
    stock = Stock(case, torch.float32)
    work = floor.counted(stock)
    assert work.step > 0
    assert work.rest > 0
    assert work.of(4) == floor._operations(stock, 4)


def test_a_rate_is_measured() -> None:
    assert 1e8 < floor.rate() < 1e16


def test_how_near_two_videos_are() -> None:
    rng = np.random.default_rng(1)
    video = rng.integers(20, 200, (3, 32, 48, 3), dtype=np.uint8)
    assert quality.psnr_db(video, video) == quality.SAME_DB
    assert quality.ssim(video, video) == pytest.approx(1, abs=1e-5)
    brighter = video + 10
    assert quality.psnr_db(brighter, video) == pytest.approx(20 * np.log10(25.5), abs=0.01)
    assert 0.9 < quality.ssim(brighter, video) < 1


def result(model: str, way: str, video_s: float, **more: float) -> Result:
    return Result(model, way, "eager", True, video_s / 50, video_s, 7.3, 2.0, **more)


def test_figures_are_ratios_of_one_run_and_empty_where_something_is_missing() -> None:
    found = [
        result("i2vgen-xl", EAGER, 12.0, psnr_db=51.0, floor_ratio=4.4),
        result("i2vgen-xl", OURS, 6.0, psnr_db=45.0, floor_ratio=2.2),
        result("i2vgen-xl", STOCK, 42.0),
        result("svd-xt", EAGER, 20.0),
        result("svd-xt", OURS, 10.0, psnr_db=41.0),
    ]
    starts = {"first": {"ready_s": 21.0, "first_video_s": 28.0}, "again": {"ready_s": 11.0, "first_video_s": 18.0}}
    values = {each.name: (each.value, each.holds) for each in gpu.figures(found, starts)}
    assert values == {
        "i2v_s_per_video": (6.0, False),
        "i2v_vs_stock_fp32": (7.0, True),
        "i2v_vs_autocast": (None, None),
        "i2v_floor_ratio": (2.2, False),
        "svd_vs_fp16_eager": (2.0, True),
        "animatediff_vs_fp16_eager": (None, None),
        "psnr_db": (41.0, True),
        "alone_ready_s": (11.0, None),
        "alone_first_video_s": (18.0, None),
    }
    assert {each.value for each in gpu.figures(found)[-2:]} == {None}
    assert gpu.figures(found)[0].peers == {EAGER: 12.0, STOCK: 42.0}


@pytest.mark.parametrize("is_ahead", [True, False])
def test_a_step_is_what_a_video_takes_longer(monkeypatch: pytest.MonkeyPatch, is_ahead: bool) -> None:
    """Whenever a pipeline says that one has ended."""
    now = 0.0

    def make(steps: int, on_step: Callable[[], None]) -> str:
        nonlocal now
        now += 10
        for _ in range(steps):
            now += 3 * (not is_ahead)
            on_step()
        now += 3 * steps * is_ahead
        return "video"

    monkeypatch.setattr(time, "monotonic", lambda: now)
    timing, made = gpu.timed(make, 6, of=50)
    assert (timing.step_s, timing.video_s, timing.is_whole, made) == (3, 10 + 50 * 3, False, "video")
    timing, _ = gpu.timed(make, 50, of=50)
    assert (timing.step_s, timing.video_s, timing.is_whole) == (3, 10 + 50 * 3, True)


def test_a_whole_run_keeps_each_result_as_it_comes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.json"
    argv = ["gpu", "--small", "--model", "smoke", "--folder", str(folder), "--out", str(out), "--json"]
    monkeypatch.setattr(sys, "argv", [*argv, "--commit", "abc"])
    assert gpu.main() == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [(each["model"], each["way"], each["is_whole"]) for each in found["results"]] == [
        ("smoke", EAGER, True), ("smoke", OURS, True), ("smoke", STOCK, False), ("smoke", AUTOCAST, False),
    ]  # fmt: skip
    assert all(each["video_s"] > 0 for each in found["results"])
    assert found["machine"]["commit"] == "abc"
    assert json.loads(out.read_text()) == found
    lines = [json.loads(line) for line in said.err.splitlines() if line.startswith('{"model": "smoke", "way"')]
    assert lines == found["results"]


def test_a_way_that_fails_is_a_note_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(gpu, "Ours", fail)
    bench = gpu.Bench(tmp_path / "out.json", "", 600, ["smoke"])
    gpu.run(bench, folder, tiny=True)
    assert [each.way for each in bench.results] == [EAGER, STOCK, AUTOCAST]
    assert bench.notes[0] == "smoke, ours: RuntimeError: CUDA out of memory"
    assert json.loads((tmp_path / "out.json").read_text())["notes"] == bench.notes


def test_nothing_new_is_begun_when_the_time_is_over(folder: Path) -> None:
    bench = gpu.Bench(None, "", 0, ["smoke"])
    gpu.run(bench, folder, tiny=True)
    assert bench.results == []
    assert bench.notes == [f"smoke, {way}: left out, 0 s are over" for way in (EAGER, OURS, STOCK, AUTOCAST)]


@pytest.mark.parametrize(("name", "kind"), [
    ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x64x64_cga1x1x1_kernel0_0", "attention"),
    ("_short_attention", "attention"),
    ("_group_moments", "norms"),
    ("triton_red_fused_native_layer_norm_view_3", "norms"),
    ("void at::native::vectorized_layer_norm_kernel<c10::Half, float>", "norms"),
    ("triton_poi_fused_convolution_silu_4", "element by element"),
    ("void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda>",
     "copies, to another layout or type"),
    ("void cudnn::ops::nchwToNhwcKernel<__half, __half, float>", "copies, to another layout or type"),
    ("Memcpy DtoD (Device -> Device)", "copies, to another layout or type"),
    ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_bias_TNT", "convolutions and matrix products"),
    ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x64",
     "convolutions and matrix products"),
    ("_specialised", "convolutions and matrix products"),
    ("void at::native::vectorized_elementwise_kernel<4, at::native::silu_kernel>", "element by element"),
    ("void (anonymous namespace)::softmax_warp_forward<float>", "rest"),
])  # fmt: skip
def test_a_kernel_s_name_tells_what_it_does(name: str, kind: str) -> None:
    assert kinds.kind(name) == kind


def test_a_step_s_kernels_are_what_a_video_takes_more_of_for_each_step() -> None:
    left = torch.ones(64, 64)

    def make(steps: int, on_step: Callable[[], None]) -> None:
        left.softmax(0)  # once
        for _ in range(steps):
            left @ left
            left @ left
            left + left

    found = kinds.step(make)
    counts = {name: count for name, (_, count) in found.items()}
    assert (counts["aten::mm"], counts["aten::add"]) == (2, 1)
    assert counts.get("aten::_softmax", 0) == 0
    assert kinds.by_kind(found)["convolutions and matrix products"][1] >= 2
    ways = kinds.shares("smoke", "ours", found)
    assert [each.ms for each in ways] == sorted((each.ms for each in ways), reverse=True)


def test_the_other_ways_are_looked_at_when_one_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    def make(steps: int, on_step: Callable[[], None]) -> None:
        for _ in range(steps):
            torch.ones(64, 64) @ torch.ones(64, 64)

    def fail(steps: int, on_step: Callable[[], None]) -> None:
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(kinds, "ways", lambda *_: {"ours": lambda: fail, "autocast": lambda: make})
    monkeypatch.setattr(sys, "argv", ["gpu", "--json"])
    assert kinds.main(folder, ["smoke", "svd-xt"], tiny=True, commit="abc") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["notes"] == [f"{model}, ours: RuntimeError: CUDA out of memory" for model in ("smoke", "svd-xt")]
    assert {(each["model"], each["way"]) for each in found["kinds"]} == {("smoke", "autocast"), ("svd-xt", "autocast")}
    assert [json.loads(line)["way"] for line in said.err.splitlines() if line.startswith('{"model"')] == [
        "ours", "autocast", "ours", "autocast",
    ]  # fmt: skip
    monkeypatch.setattr(kinds, "ways", lambda *_: {"ours": lambda: fail})
    assert kinds.main(folder, ["smoke"], tiny=True, commit="abc") == 1


def test_what_ran_on_the_gpu_is_summed_by_its_name() -> None:
    def event(name: str, number: int, us: float) -> SimpleNamespace:
        kind = DeviceType(number)
        return SimpleNamespace(name=name, device_type=kind, self_device_time_total=us, self_cpu_time_total=7.0)

    events = [event("gemm", 1, 1500.0), event("cudaGraphLaunch", 0, 0.0), event("gemm", 1, 500.0)]
    assert kinds.summed(events, DeviceType.CUDA) == {"gemm": (2.0, 2.0)}
    assert kinds.summed(events, DeviceType.CPU) == {"cudaGraphLaunch": (0.007, 1.0)}
    with pytest.raises(ValueError, match="nothing on CUDA"):
        kinds.summed(events[1:2], DeviceType.CUDA)


def test_the_constants_of_the_law_are_found_again() -> None:
    spec = catalog.load(ROOT / "app" / "models.toml").model("i2vgen-xl")
    found = []
    for size in memory.SIZES["i2vgen-xl"]:
        millions, parts = size[0] * size[1] / 1e6, spec.memory.decode_parts(size[2])
        found.append(Peaks(size, 4.5 + 0.6 * millions * size[2] * size[3], 4.5 + 1.5 * millions * -(-size[2] // parts)))
    law = memory.law(spec, found)
    assert law["fitted"] == {"weights_gib": 4.5, "denoising_gib": 0.6, "decoding_gib": 1.5}
    assert law["written"] == {"weights_gib": 4.7, "denoising_gib": 0.617, "decoding_gib": 1.87}
    assert law["error_gib"] == 0
    assert law["written_error_gib"] > 0.2


@pytest.mark.parametrize("name", memory.SIZES)
def test_sizes_are_six_or_more_and_possible(name: str) -> None:
    limits = catalog.load(ROOT / "app" / "models.toml").model(name).limits
    sizes = memory.SIZES[name]
    assert len({size[:3] for size in sizes}) >= 6
    assert {size[3] for size in sizes} == {1, 2}
    assert [size for size in sizes if limits.excess(memory.preset(size))] == []


def test_without_a_gpu_they_say_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for bench in (gpu, memory):
        monkeypatch.setattr(sys, "argv", ["bench"])
        assert bench.main() == 1
        assert capsys.readouterr().err.startswith("error: this bench needs a CUDA GPU; --small ")


def test_speed_and_memory_are_measured_without_what_the_page_and_the_queue_need() -> None:
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('av', 'sqlalchemy', 'gradio', 'fastapi', 'playwright', 'httpx', 'fsspec'))\n"
        "import ci.bench.gpu, ci.bench.memory"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
