"""Logging in with a real browser, on a telephone's screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.peers import below
from tests.peers.app import App, guarded
from tests.peers.browser import CHINESE, PHONE, Chromium, axe, chromium

pytestmark = pytest.mark.e2e
READY = "html[data-ready=true]"
FETCHED = "async () => { const answer = await fetch('api/queue'); return [answer.status, await answer.json()] }"


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with guarded(models, tmp_path_factory.mktemp("guarded")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_somebody_logs_in_with_the_keyboard_after_a_mistake(app: App, browser: Chromium, scheme: str) -> None:
    with browser.visitor(CHINESE, PHONE, color_scheme=scheme) as visitor:
        page = visitor.open(app.url)
        assert page.url == f"{app.url}/login"
        assert page.evaluate("[document.activeElement.id, document.documentElement.scrollWidth]") == ["name", PHONE[0]]
        assert axe(page) == []
        assert visitor.errors == []
        page.keyboard.type("wang")
        page.keyboard.press("Tab")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=用户名或密码不正确")
        assert axe(page) == []
        assert page.evaluate("document.activeElement.id") == "password"
        page.keyboard.type("wang-password")
        page.keyboard.press("Enter")
        page.wait_for_selector(READY)
        assert page.url == f"{app.url}/"
        assert "session" not in page.evaluate("document.cookie")
        visitor.context.clear_cookies()
        assert page.evaluate(FETCHED) == [401, {"error": "您已退出登录：请重新加载页面", "hints": []}]


def test_what_is_made_on_the_page_is_of_who_has_logged_in(app: App, browser: Chromium, photo: Path) -> None:
    with browser.visitor() as visitor, app.client(authorization="Bearer zhao-password") as other:
        page = visitor.open(app.url)
        log_in(page)
        page.wait_for_selector(READY)
        page.set_input_files("#pictures input[type=file]", photo)
        page.wait_for_selector("#pictures img")
        page.fill("#prompt textarea", "a cat")
        page.click("#fast")
        page.wait_for_function("async () => (await (await fetch('api/jobs')).json()).length === 1")
        assert other.get("/api/jobs").json() == []


def test_the_language_is_kept_and_the_session_found_by_links_from_elsewhere_and_below_a_folder(
    app: App, browser: Chromium
) -> None:
    with browser.visitor(CHINESE) as visitor, below.serving(app.url) as url:
        page = visitor.open(url)
        page.click("text=English")
        page.wait_for_selector("button:text('Log in')")
        log_in(page)
        page.wait_for_url(url)
        assert page.evaluate("document.cookie") == "language=en"
        assert {(cookie["name"], cookie["path"]) for cookie in visitor.context.cookies()} == {
            ("session", "/video"), ("language", "/video"),
        }  # fmt: skip
        page.goto(f"data:text/html,<a href='{url}'>video</a>")  # another site
        page.click("a")
        page.wait_for_url(url)
        page.wait_for_selector(READY)
        assert page.evaluate(FETCHED)[0] == 200


def log_in(page: Page) -> None:
    page.fill("#name", "wang")
    page.fill("#password", "wang-password")
    page.click("button")
