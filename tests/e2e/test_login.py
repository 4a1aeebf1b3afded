"""Logging in with a real browser, on a telephone's screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from tests.peers import subpath, system
from tests.peers.app import App, serving

pytestmark = pytest.mark.e2e
FETCHED = "async () => { const answer = await fetch('api/queue'); return [answer.status, await answer.json()] }"


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("guarded")
    passwords = folder / "passwords"
    passwords.write_text("li:first-password\nwang:second-password\n")
    passwords.chmod(0o600)
    with serving(models, folder, "--password-file", str(passwords)) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = system.browser()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(system.CHROMIUM))
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_somebody_logs_in_with_the_keyboard_after_a_mistake(app: App, browser: Browser, scheme: Any) -> None:
    context = browser.new_context(locale="zh-CN", viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    with context:
        page.goto(app.url)
        assert page.url == f"{app.url}/login"
        assert page.evaluate("[document.activeElement.id, document.documentElement.scrollWidth]") == ["name", 390]
        checked = Axe().run(page)
        assert checked.violations_count == 0, checked.generate_report()
        page.keyboard.type("wang")
        page.keyboard.press("Tab")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=用户名或密码不正确")
        checked = Axe().run(page)
        assert checked.violations_count == 0, checked.generate_report()
        assert page.evaluate("document.activeElement.id") == "password"
        page.keyboard.type("second-password")
        page.keyboard.press("Enter")
        page.wait_for_selector("#generate")
        assert page.url == f"{app.url}/"
        assert page.evaluate(FETCHED)[0] == 200
        assert "session" not in page.evaluate("document.cookie")
        context.clear_cookies()
        assert page.evaluate(FETCHED) == [401, {"error": "您已退出登录：请重新加载页面", "hints": []}]


def test_the_language_is_kept_and_the_session_found_by_links_from_elsewhere_and_below_a_folder(
    app: App, browser: Browser
) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    with context, subpath.serving(app.url, "/video") as url:
        page.goto(f"{url}/")
        page.click("text=English")
        page.wait_for_selector("button:text('Log in')")
        page.fill("#name", "wang")
        page.fill("#password", "second-password")
        page.click("button")
        page.wait_for_url(f"{url}/")
        assert page.evaluate("document.cookie") == "language=en"
        assert {(cookie["name"], cookie["path"]) for cookie in context.cookies()} == {
            ("session", "/video"), ("language", "/video"),
        }  # fmt: skip
        page.goto(f"data:text/html,<a href='{url}/'>video</a>")  # another site
        page.click("a")
        page.wait_for_url(f"{url}/")
        assert page.evaluate(FETCHED)[0] == 200
