"""app.adapters.reading: weights in threads, without the libraries that make modules of them"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app import adapters, logs
from app.adapters import reading
from app.adapters.reading import Reading
from jingxiang import models as catalog

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three parts, of which the index names two, and one of another library."""
    for part in ("unet", "vae", "controlnet", "safety_checker"):
        (tmp_path / part).mkdir()
        tensors = {f"{part}.{number}": torch.full((4, 4), float(number)) for number in range(5)}
        save_file({**tensors, "count": torch.tensor([7])}, tmp_path / part / "model.safetensors")
    index = {
        "_class_name": "X",
        "unet": ["diffusers", "A"],
        "vae": ["diffusers", "B"],
        "safety_checker": ["other", "C"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return tmp_path


def opened(folder: Path, dtype: str = "fp16") -> Reading:
    return Reading(folder, dtype=dtype, rung="full")


def test_neither_diffusers_nor_transformers_is_imported(folder: Path) -> None:
    code = (
        "import sys, pathlib; from app.adapters.reading import Reading\n"
        "with Reading(pathlib.Path(sys.argv[1]), dtype='fp16', rung='full') as read:\n"
        "    print(len(read.take('unet')), {'diffusers', 'transformers', 'accelerate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "6 set()\n"


def test_all_tensors_of_a_part_come_in_the_dtype_but_whole_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SHARE_BYTES", 100)  # several readers for each file
    with opened(folder) as read:
        found = read.take("unet")
    assert sorted(found) == ["count", *(f"unet.{number}" for number in range(5))]
    assert all(torch.equal(found[f"unet.{number}"], torch.full((4, 4), float(number)).half()) for number in range(5))
    assert (found["count"].dtype, int(found["count"])) == (torch.int64, 7)


def test_a_part_that_the_index_does_not_name_is_read_when_it_is_asked_for(folder: Path) -> None:
    with opened(folder, "fp32") as read:
        assert "controlnet.1" in read.take("controlnet")
        with pytest.raises(FileNotFoundError, match="motion_adapter: no file of weights in safetensors"):
            read.take("motion_adapter")


def test_a_file_that_is_damaged_is_said_by_whoever_takes_it(folder: Path) -> None:
    (folder / "vae" / "model.safetensors").write_bytes(b"no")
    with opened(folder) as read:
        assert len(read.take("unet")) == 6
        with pytest.raises(Exception, match="header"):
            read.take("vae")


def test_a_link_that_leads_nowhere_is_said_likewise(folder: Path) -> None:
    (folder / "vae" / "model.safetensors").unlink()
    (folder / "vae" / "model.safetensors").symlink_to(folder / "gone")
    with opened(folder) as read, pytest.raises(FileNotFoundError):
        read.take("vae")


@pytest.mark.parametrize("index", ["", "[1]", '{"unet": [], "vae": [[]]}', '{"unet": ["diffusers", "A"]'])
def test_an_index_that_is_none_is_left_to_whoever_loads_it(folder: Path, index: str) -> None:
    (folder / "model_index.json").write_text(index)
    with opened(folder) as read:
        assert len(read.take("vae")) == 6


def test_what_is_not_taken_is_forgotten(folder: Path) -> None:
    with opened(folder) as read:
        taken = read.take("unet")
        other = weakref.ref(read._begun["vae"][0].result()["vae.1"])
    assert len(taken) == 6
    gc.collect()
    assert other() is None


def test_the_log_says_how_far_a_start_is(models: Path, tmp_path: Path) -> None:
    spec = catalog.load(ROOT / "app" / "models.toml").model("smoke")
    logs.start(tmp_path, "worker")
    try:
        adapters.load(spec, models / "smoke").close()
    finally:
        logs.stop()
    phases = [str(each.fields["phase"]) for each in logs.read(tmp_path) if each.event == logs.REACHED]
    assert set(phases) == {"imported", "read", "built"}
    assert phases[-1] == "built"


def test_why_torch_cannot_be_imported_is_kept_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second try may say something else."""
    monkeypatch.setitem(sys.modules, "torch", None)
    logs.start(tmp_path, "worker")
    try:
        adapters.import_torch()
    finally:
        logs.stop()
    (entry,) = [each for each in logs.read(tmp_path) if each.event == logs.TROUBLE]
    assert "torch" in json.dumps(entry.fields)
