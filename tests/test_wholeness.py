"""app.wholeness: models with something missing"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from app import wholeness
from jingxiang import models as catalog
from jingxiang import weights
from jingxiang.weights import LockedFile, LockedPart

ROOT = Path(__file__).resolve().parent.parent
CATALOG = catalog.load(ROOT / "app" / "models.toml")
SMOKE = CATALOG.model("smoke")


@pytest.fixture
def smoke(models: Path, tmp_path: Path) -> Path:
    """A copy of the smoke model, to break."""
    return shutil.copytree(models / "smoke", tmp_path / "smoke")


def test_what_was_made_is_whole(smoke: Path) -> None:
    assert wholeness.lacking(SMOKE, smoke, None) == []
    assert wholeness.size_bytes(smoke) > 2_000_000


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_that_is_cut_or_longer_is_seen_by_its_own_header(smoke: Path, change: int) -> None:
    path = next(smoke.glob("unet/*.safetensors"))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size + change)
    name = path.relative_to(smoke)
    assert wholeness.lacking(SMOKE, smoke, None) == [f"{name} has {size + change} bytes instead of {size}"]


def test_missing_parts_are_named(smoke: Path) -> None:
    shutil.rmtree(smoke / "vae")
    shutil.rmtree(smoke / "tokenizer")
    assert wholeness.lacking(SMOKE, smoke, None) == ["tokenizer/ is missing", "vae/ is missing"]
    (smoke / "model_index.json").write_text("[]")
    assert wholeness.lacking(SMOKE, smoke, None) == ["model_index.json is missing"]
    shutil.rmtree(smoke)
    assert wholeness.lacking(SMOKE, smoke, None) == ["model_index.json is missing"]


def test_weights_that_are_none_or_may_not_be_read_are_named(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (smoke / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"<!doctype html>")
    broken = "vae/diffusion_pytorch_model.safetensors is no safetensors file"
    assert wholeness.lacking(SMOKE, smoke, None) == [broken]
    monkeypatch.setattr("os.access", lambda path, mode: "unet" not in str(path))  # root may read everything
    closed = "unet/diffusion_pytorch_model.safetensors may not be read"
    assert wholeness.lacking(SMOKE, smoke, None) == [closed, broken]


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", struct.pack("<Q", 1 << 60), struct.pack("<Q", 4) + b"{}", struct.pack("<Q", 2) + b"{}",
     struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 8) + b'{"a": 1}'],
)  # fmt: skip
def test_a_header_that_is_none_states_no_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    assert wholeness.stated_bytes(tmp_path / "x.safetensors") == 0


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}})
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"abc")
    assert wholeness.stated_bytes(tmp_path / "x.safetensors") == 8 + len(header) + 3


def test_a_locked_model_is_compared_with_its_lock_in_the_folders_of_its_parts(tmp_path: Path) -> None:
    spec = CATALOG.model("animatediff")
    assert spec.weights is not None
    parts = [
        LockedPart(part.repository, part.revision, (LockedFile("config.json", number + 3, sha256="0" * 64),))
        for number, part in enumerate(spec.weights.parts)
    ]
    lock = weights.lock(spec.weights, parts)
    for folder, size in ((".", 3), ("motion_adapter", 4)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "config.json").write_bytes(bytes(size))
    assert wholeness.lacking(spec, tmp_path, lock) == ["controlnet/config.json is missing"]
    (tmp_path / "controlnet").mkdir()
    (tmp_path / "controlnet/config.json").write_bytes(bytes(9))
    assert wholeness.lacking(spec, tmp_path, lock) == ["controlnet/config.json has 9 bytes instead of 5"]
