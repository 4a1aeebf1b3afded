"""app.smoke"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from app import smoke
from jingxiang.digest import sha256_bytes, sha256_file

ROOT = Path(__file__).resolve().parent.parent
# What every machine must get from the locked versions.
WEIGHTS = {
    "image_encoder/model.safetensors": "29b9858cbaddbac8c0629c8b086ea1f246387a957ed1c8244f38cdce3888e475",
    "text_encoder/model.safetensors": "af9129f3487c3f5ef625ac88f70309a85d18187d758e99a9bc4a817e69f8e157",
    "unet/diffusion_pytorch_model.safetensors": "c0be2e8ff51f13d88b55b2a572e95d531ea941926b309b06f5bc903c13ba9f54",
    "vae/diffusion_pytorch_model.safetensors": "6101dd91cd6739e6c9e2dc095f6d2ed166cae4ce69ca06561b6207b16d492c88",
}


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_weights_are_the_same_bytes_everywhere(models: Path) -> None:
    made = digests(models / "smoke")
    assert {name: made[name] for name in WEIGHTS} == WEIGHTS


def test_another_process_with_other_settings_makes_the_same_files(models: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, torch, pathlib; os.umask(0o077); torch.set_num_threads(2); torch.manual_seed(1);"
        "torch.rand(3); from app import smoke; smoke.make(pathlib.Path(sys.argv[1]))"
    )
    env = {**os.environ, "TZ": "Asia/Shanghai", "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    env["ATEN_CPU_CAPABILITY"] = "default"  # as a CPU without vector instructions would compute
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "smoke")], check=True, env=env, cwd=ROOT)
    assert digests(tmp_path / "smoke") == digests(models / "smoke")


def test_every_user_may_read_it(models: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in (models / "smoke").rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_it_is_small_and_holds_only_safetensors_and_json(models: Path) -> None:
    files = [path for path in (models / "smoke").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    size = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    assert 2_000_000 <= size <= 8_000_000


def test_making_it_does_not_move_the_global_random_state() -> None:
    torch.manual_seed(3)
    before = sha256_bytes(torch.get_rng_state().numpy().tobytes())
    smoke.fill(torch.nn.Linear(4, 4, device="meta").to_empty(device="cpu"))
    assert sha256_bytes(torch.get_rng_state().numpy().tobytes()) == before


def test_nothing_half_made_stays_behind(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "smoke"
    folder.mkdir()
    (folder / "left over").write_text("from an earlier version")
    smoke.make(folder)
    assert digests(folder) == digests(models / "smoke")
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"]
