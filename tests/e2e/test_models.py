"""The page of each model but I2VGen-XL, in a real browser, with tiny weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.peers import checkout, tiny_models
from tests.peers.app import serving
from tests.peers.browser import CHINESE, ENGLISH, chromium
from tests.peers.page import cards, fill, opened, unfold

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose fast presets are small, and a folder of models."""
    found = tmp_path_factory.mktemp("tiny")
    tiny_models.shrink(checkout.copy(found / "checkout").folder / "app" / "models.toml")
    code = "import pathlib, sys; from tests.peers import tiny_models; tiny_models.make(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, found / "models"], cwd=found / "checkout", check=True)
    return found


def test_the_page_asks_for_a_prompt_only_where_the_model_takes_one(folder: Path, tmp_path: Path, photo: Path) -> None:
    with (
        serving(folder / "models", tmp_path, "--model", "svd-xt", cwd=folder / "checkout") as app,
        chromium() as browser,
        browser.visitor() as visitor,
    ):
        app.wait_until_ready()
        page = opened(visitor, app.url)
        expect(page.locator("#prompt")).to_be_hidden()
        assert "Prompt" not in page.inner_text("body")
        fill(page, photo, prompt="")
        page.click("#fast")
        card = cards(page, "done")
        expect(card.locator(".settings")).to_contain_text("svd-xt")
        unfold(page)
        page.click("#model input")
        page.get_by_role("option", name="AnimateDiff").click()
        expect(page.locator("#prompt")).to_be_visible()  # which that one takes
        expect(page.locator("#negative")).to_be_visible()


def test_the_end_of_a_prompt_that_is_too_long_is_shown(folder: Path, tmp_path: Path, photo: Path) -> None:
    with (
        serving(folder / "models", tmp_path, "--model", "animatediff", cwd=folder / "checkout") as app,
        chromium() as browser,
        browser.visitor(ENGLISH) as first,
        browser.visitor(CHINESE) as second,
    ):
        app.wait_until_ready()
        said = ("he prompt is too long; the model did not read: ", "提示词过长；模型未读取：")
        for count, (visitor, text) in enumerate(zip((first, second), said, strict=True), 1):
            page = opened(visitor, app.url)
            fill(page, photo, prompt="x" * 75 + " and <b>more</b>")
            expect(page.locator("#hint")).to_contain_text(f"{text}and <b>more</b>")  # while it is written
            page.click("#fast")
            card = cards(page, "done", count).first
            expect(card.locator(".notes")).to_contain_text(f"{text}and <b>more</b>")
