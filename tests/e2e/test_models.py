"""The page of each model but I2VGen-XL, in a real browser, with tiny weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.e2e.test_drain import opened
from tests.peers import checkout, tiny_models
from tests.peers.app import serving

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose fast presets are small, and a folder of models."""
    found = tmp_path_factory.mktemp("tiny")
    tiny_models.shrink(checkout.copy(found / "checkout").folder / "app" / "models.toml")
    code = "import pathlib, sys; from tests.peers import tiny_models; tiny_models.make(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, found / "models"], cwd=found / "checkout", check=True)
    return found


def order(page: Page, photo: Path) -> None:
    page.set_input_files("#picture input[type=file]", photo)
    page.wait_for_selector("#picture img")
    page.click("#preset input[value=fast]")
    page.click("#generate")


def test_the_page_asks_for_a_prompt_only_where_the_model_takes_one(folder: Path, tmp_path: Path, photo: Path) -> None:
    with (
        serving(folder / "models", tmp_path, "--model", "svd-xt", cwd=folder / "checkout") as app,
        opened(ready(app.process), "en-US", "zh-CN") as pages,
    ):
        for page, other in zip(pages, ("Seed (empty: random)", "随机种子（留空则随机）"), strict=True):
            page.wait_for_function("text => document.body.innerText.includes(text)", arg=other)
            assert not page.is_visible("#prompt")
            assert "Prompt" not in page.inner_text("body")
            assert "提示词" not in page.inner_text("body")
            order(page, photo)
            page.wait_for_selector("#video video", timeout=60_000)
            assert '"model": "svd-xt"' in page.inner_text("#settings")


def test_the_end_of_a_prompt_that_is_too_long_is_shown(folder: Path, tmp_path: Path, photo: Path) -> None:
    with (
        serving(folder / "models", tmp_path, "--model", "animatediff", cwd=folder / "checkout") as app,
        opened(ready(app.process), "en-US", "zh-CN") as pages,
    ):
        said = ("the prompt is too long; the model did not read: ", "提示词过长；模型未读取：")
        for page, text in zip(pages, said, strict=True):
            page.fill("#prompt textarea", "x" * 75 + " and <b>more</b>")
            order(page, photo)
            page.wait_for_function(
                "text => document.body.innerText.includes(text)", arg=f"{text}and <b>more</b>", timeout=60_000
            )
            page.wait_for_selector("#video video", timeout=60_000)


def ready(process: subprocess.Popen[str]) -> str:
    """The address that the app prints."""
    assert process.stdout is not None
    return process.stdout.readline().removeprefix("READY ").strip()
