"""app.readahead: which files are asked for, and what happens where the kernel cannot be asked"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import readahead


def written(folder: Path, *names: str, size: int = 1) -> list[Path]:
    files = [folder / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    return files


def test_files_in_fp16_are_taken_before_others_and_strangers_never(tmp_path: Path) -> None:
    half = written(tmp_path / "unet", "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
                   "diffusion_pytorch_model.fp16-00002-of-00002.safetensors")  # fmt: skip
    written(tmp_path / "unet", "diffusion_pytorch_model.safetensors", "lora.safetensors", "model.bin", "config.json")
    (full,) = written(tmp_path / "vae", "model.safetensors")
    assert readahead.weights(tmp_path / "unet") == half
    assert readahead.weights(tmp_path / "vae") == [full]
    assert readahead.weights(tmp_path / "nowhere") == []


def test_the_kernel_is_asked_for_all_weights_of_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = written(tmp_path, "unet/model.fp16.safetensors", "vae/model.safetensors")
    written(tmp_path, "unet/model.safetensors", "vae/config.json", "model.safetensors")
    asked: list[tuple[Path, tuple[int, ...]]] = []

    def advise(descriptor: int, *arguments: int) -> None:
        asked.append((Path(f"/proc/self/fd/{descriptor}").readlink(), arguments))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    readahead.begin(tmp_path).join()
    assert asked == [(file, (0, 0, os.POSIX_FADV_WILLNEED)) for file in files]


def test_where_it_cannot_be_asked_the_files_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written(tmp_path, "unet/model.safetensors", size=10_000)
    monkeypatch.setattr(readahead, "PART_BYTES", 4096)
    monkeypatch.delattr(os, "posix_fadvise")
    counts: list[int] = []

    class File(io.FileIO):
        def readinto(self, buffer: object) -> int:
            counts.append(super().readinto(buffer))  # type: ignore[arg-type]
            return counts[-1]

    monkeypatch.setattr(Path, "open", lambda path, *_, **named: File(path))
    readahead.begin(tmp_path).join()
    assert counts == [4096, 4096, 1808, 0]


def test_what_cannot_be_opened_is_left_to_whoever_loads_it(tmp_path: Path) -> None:
    (tmp_path / "unet" / "model.safetensors").mkdir(parents=True)
    readahead.begin(tmp_path).join()
    readahead.begin(tmp_path / "nowhere").join()


def test_a_worker_asks_before_it_imports_anything_heavy() -> None:
    code = (
        "import sys; from app import __main__ as app, readahead\n"
        "def begin(folder):\n"
        "    print(folder.name, {'torch', 'sqlalchemy', 'numpy', 'PIL', 'fsspec'} & set(sys.modules))\n"
        "    sys.exit(0)\n"
        "readahead.begin = begin\n"
        "sys.argv = ['app', 'worker', '--model', 'svd-xt', '--models', 'nowhere']\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "svd-xt set()\n"
