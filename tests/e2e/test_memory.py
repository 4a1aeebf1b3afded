"""What a running app says of settings that do not fit, when memory is short and when it changes"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jingxiang.models import GIB
from tests.peers import memory
from tests.peers.app import App, serving, wait_for

pytestmark = pytest.mark.e2e


def fitting(app: App) -> dict[str, bool]:
    (model,) = json.loads(app.get("/api/models")[1])
    return {name: preset["fits"] for name, preset in model["presets"].items()}


def test_what_does_not_fit_is_said_with_numbers_and_follows_memory(models: Path, tmp_path: Path, photo: Path) -> None:
    """I2VGen-XL by name, and so by what its table says of memory; its weights are those of the smoke model."""
    shutil.copytree(models / "smoke", tmp_path / "models" / "i2vgen-xl")
    ram = memory.made(tmp_path / "ram", total_bytes=40 * GIB, free_bytes=20 * GIB)
    with serving(tmp_path / "models", tmp_path, "--model", "i2vgen-xl", env=ram.environment()) as app:
        app.wait_until_ready()
        assert fitting(app) == {"standard": True, "fast": True, "12gb": True, "24gb": False, "40gb": False}
        (model,) = json.loads(app.get("/api/models")[1])
        said = model["presets"]["24gb"]["message"]
        assert said.startswith("not enough memory: it needs 31.7 GB, and 21.5 GB can be had: ")
        assert said.endswith("; or free 10.2 GB")
        assert model["presets"]["40gb"]["message"].endswith("; there is no more than 42.9 GB in all")
        (model,) = json.loads(app.get("/api/models", accept_language="zh-CN")[1])
        assert model["presets"]["24gb"]["message"].startswith("内存或显存不足：需要 31.7 GB，可用 21.5 GB：")
        refused = app.post(photo, preset="24gb")
        assert refused.status_code == 400
        assert refused.json()["error"] == said
        ram.set(40 * GIB, 36 * GIB)
        wait_for(lambda: fitting(app)["24gb"])
        assert not fitting(app)["40gb"]
