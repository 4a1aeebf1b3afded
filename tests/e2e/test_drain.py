"""What people with an open page see when the app is told to stop, in a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page

from tests.peers.browser import chromium

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def opened(url: str, *locales: str) -> Iterator[list[Page]]:
    """A page of the app in each of these languages, of somebody else each time."""
    with ExitStack() as stack:
        browser = stack.enter_context(chromium())
        pages = [stack.enter_context(browser.visitor(locale)).open(url) for locale in locales]
        for page in pages:
            page.wait_for_selector("#generate")
        yield pages


def order(page: Page, photo: Path) -> None:
    page.set_input_files("#picture input[type=file]", photo)
    page.wait_for_selector("#picture img")
    page.fill("#prompt textarea", "a cat turns its head")
    page.click("#generate")


def seen(page: Page, text: str) -> Any:
    return page.wait_for_function("text => document.body.innerText.includes(text)", arg=text, timeout=30_000)


def test_the_page_that_waits_gets_its_video_and_the_others_are_told(models: Path, tmp_path: Path, photo: Path) -> None:
    argv = [sys.executable, "-m", "app", "--models", str(models), "--outputs", str(tmp_path / "out"), "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ}) as app:
        try:
            assert app.stdout is not None
            url = app.stdout.readline().removeprefix("READY ").strip()
            (worker,) = psutil.Process(app.pid).children()
            with opened(url, "en-US", "zh-CN", "en-US") as (waiting, queued, late):
                order(waiting, photo)
                waiting.wait_for_function("() => /\\d+\\/10 steps/.test(document.body.innerText)", timeout=60_000)
                worker.suspend()
                order(queued, photo)
                seen(queued, "前面还有 1 个")
                app.send_signal(signal.SIGTERM)
                seen(queued, "服务即将停止；您的视频仍在队列中，重启后继续")
                order(late, photo)
                seen(late, "the server is about to stop and takes no new videos; try again in a minute")
                assert app.poll() is None
                worker.resume()
                waiting.wait_for_selector("#video video", timeout=60_000)
                waiting.wait_for_function("() => document.querySelector('#video video').readyState >= 2")
                assert app.wait(timeout=30) == 0  # although three pages are open
                # and it still plays when the server is gone
                waiting.wait_for_function("() => document.querySelector('#video video').currentTime > 0.2")
                assert '"prompt": "a cat turns its head"' in waiting.inner_text("#settings")
        finally:
            app.kill()
