"""What tests of the page rely on: that a browser notices requests to outside, complaints and what cannot be read"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.peers import below
from tests.peers.app import serving
from tests.peers.browser import CHINESE, PHONE, axe, chromium
from tests.peers.mirror import Mirror

pytestmark = pytest.mark.e2e
HTML = {"Content-Type": "text/html; charset=utf-8"}
LEAKY = b"""<!doctype html><html lang="en"><title>t</title><link rel="preconnect" href="https://fonts.example.org">
<link rel="stylesheet" href="http://styles.example.org/a.css"><main><h1>h</h1><p style="color:#aaa">grey on white</p>
<img src="missing.png"></main><script>setTimeout(() => { throw new Error("planted") })</script></html>"""
CLEAN = b'<!doctype html><html lang="en"><title>t</title><main><h1>h</h1><img src="data:," alt=""></main></html>'


def test_what_a_page_does_wrong_is_noticed(near: Mirror) -> None:
    near.files["/page"], near.headers["/page"] = LEAKY, HTML
    with chromium() as browser, browser.visitor() as visitor:
        page = visitor.open(f"{near.url}/page")
        assert visitor.hosts() == {near.url.partition("//")[2], "styles.example.org", "fonts.example.org"}
        assert browser.outside == ["GET http://styles.example.org/a.css HTTP/1.1"]
        assert any("planted" in each for each in visitor.errors)
        assert {each.rule for each in axe(page)} == {"color-contrast", "image-alt"}


def test_a_page_that_does_nothing_wrong_is_left_alone(near: Mirror) -> None:
    near.files |= {"/page": CLEAN, "/favicon.ico": b""}
    near.headers["/page"] = HTML
    with chromium() as browser, browser.visitor(CHINESE, PHONE, scale=2) as visitor:
        page = visitor.open(f"{near.url}/page")
        assert page.evaluate("[navigator.language, innerWidth, devicePixelRatio]") == ["zh-CN", 390, 2]
        assert visitor.hosts() == {near.url.partition("//")[2]}
        assert (browser.outside, visitor.errors, axe(page)) == ([], [], [])


def test_visitors_do_not_share_cookies_and_nothing_is_kept(near: Mirror) -> None:
    near.files["/page"], near.headers["/page"] = CLEAN, HTML | {"Set-Cookie": "seen=1"}
    with chromium() as browser, browser.visitor() as one, browser.visitor() as other:
        one.open(f"{near.url}/page")
        assert [each["name"] for each in one.context.cookies()] == ["seen"]
        assert other.context.cookies() == []


def test_the_app_below_a_path_takes_pictures_and_tells_how_it_goes(models: Path, tmp_path: Path, photo: Path) -> None:
    with serving(models, tmp_path) as app, below.serving(app.url) as url:
        app.wait_until_ready()
        app.url = url.rstrip("/")
        number = app.post(photo).json()["id"]
        with app.client() as client, client.stream("GET", f"{app.url}/api/jobs/{number}/events") as stream:
            told = [line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data:")]
        assert json.loads(told[-1])["state"] == "done"
        assert app.client().get(url.replace("/video/", "/api/queue")).status_code == 404
