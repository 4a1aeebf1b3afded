"""What people with an open page see when the app is told to stop, in a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.peers.app import suspend
from tests.peers.browser import chromium
from tests.peers.page import LONG_MS, cards, fill, opened, plays

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def pages(url: str, *locales: str) -> Iterator[list[Page]]:
    """A page of the app in each of these languages, of somebody else each time."""
    with ExitStack() as stack:
        browser = stack.enter_context(chromium())
        yield [opened(stack.enter_context(browser.visitor(locale)), url) for locale in locales]


def test_the_page_that_waits_gets_its_video_and_the_others_are_told(models: Path, tmp_path: Path, photo: Path) -> None:
    argv = [sys.executable, "-m", "app", "--models", str(models), "--outputs", str(tmp_path / "out"), "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ}) as app:
        try:
            assert app.stdout is not None
            url = app.stdout.readline().removeprefix("READY ").strip()
            (worker,) = psutil.Process(app.pid).children()
            with pages(url, "en-US", "zh-CN") as (waiting, late):
                fill(waiting, photo)
                waiting.click("#standard")
                card = waiting.locator("#jobs [data-job]")
                expect(card.locator(".state")).to_have_text(re.compile(r"Step \d+ of 10"), timeout=LONG_MS)
                suspend(worker, tmp_path / "out")
                waiting.click("#fast")
                expect(waiting.locator("#jobs [data-state=queued] .state")).to_contain_text("Waiting; 1 before it")
                app.send_signal(signal.SIGTERM)
                expect(waiting.get_by_text("The server is about to stop; what waits keeps its place")).to_be_visible()
                fill(late, photo)
                late.click("#fast")
                expect(late.get_by_text("服务即将停止，不再接受新视频")).to_be_visible()
                assert app.poll() is None
                worker.resume()
                done = cards(waiting, "done")
                waiting.wait_for_function("v => v.readyState >= 2", arg=done.locator("video").element_handle())
                assert app.wait(timeout=30) == 0  # although two pages are open
                plays(waiting, done)  # although the server is gone
        finally:
            app.kill()
