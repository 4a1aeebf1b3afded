"""The web page as people use it, in Debian's Chromium: both languages, the smoke model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from app.generation import Order
from app.jobs.base import WorkerStatus
from app.jobs.database import Database
from app.jobs.store import JobStore
from jingxiang.models import GIB, Preset
from tests.peers import below, memory
from tests.peers.app import App, guarded, serving, wait_for
from tests.peers.browser import CHINESE, DESKTOP, ENGLISH, PHONE, Chromium, Visitor, axe, chromium
from tests.peers.page import LONG_MS, cards, fill, number, opened, plays, unfold

pytestmark = pytest.mark.e2e
PARTS = ["#header", "#pictures", "#examples", "#prompt", "#standard", "#fast", "#settings", "#jobs", "#system-panel"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as started:
        yield started
        assert started.outside == []


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with serving(models, tmp_path_factory.mktemp("app")) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> None:
    """No jobs of the test before."""
    if "app" in request.fixturenames:
        started: App = request.getfixturevalue("app")
        with started.client() as client:
            for _ in range(2):
                for job in client.get("/api/jobs").json():
                    client.delete(f"/api/jobs/{job['id']}")
                wait_for(lambda: client.get("/api/queue").json()["running"] == 0)


@pytest.fixture
def english(browser: Chromium, app: App) -> Iterator[Page]:
    with browser.visitor(ENGLISH) as visitor:
        yield opened(visitor, app.url)
        assert visitor.errors == []


def slow(page: Page, photo: Path) -> Locator:
    """A job of a hundred steps; its card."""
    fill(page, photo)
    unfold(page)
    number(page, "steps", 100)
    page.click("#custom")
    card = page.locator("#jobs [data-job]").first
    expect(card).to_have_attribute("data-state", "running", timeout=LONG_MS)
    return card


WORDS: dict[str, dict[str, str]] = {
    ENGLISH: {
        "standard": "Standard", "fast": "Fast preview", "done": "Done in", "notice": "noise", "seed": "seed",
        "download": "Download", "again": "Same seed in Standard", "empty": "choose a picture first",
    },
    CHINESE: {
        "standard": "标准", "fast": "快速预览", "done": "已完成", "notice": "噪声", "seed": "种子",
        "download": "下载", "again": "用同一种子生成标准版", "empty": "请先选择一张图片",
    },
}  # fmt: skip


@pytest.mark.parametrize("locale", [ENGLISH, CHINESE])
def test_a_newcomers_way_from_the_picture_to_the_video(browser: Chromium, app: App, photo: Path, locale: str) -> None:
    words = WORDS[locale]
    with browser.visitor(locale) as visitor:
        page = opened(visitor, app.url)
        assert page.get_attribute("html", "lang") == ("en" if locale == ENGLISH else "zh-CN")
        assert (page.inner_text("#standard"), page.inner_text("#fast")) == (words["standard"], words["fast"])
        expect(page.locator("#header")).to_contain_text(words["notice"])
        page.click("#fast")
        expect(page.get_by_text(words["empty"])).to_be_visible()
        fill(page, photo)
        page.click("#fast")
        card = cards(page, "done")
        expect(card.locator(".state")).to_contain_text(words["done"])
        expect(card.locator(".settings")).to_contain_text(words["seed"])
        plays(page, card)
        assert card.locator("video").evaluate("video => [video.videoWidth, video.videoHeight]") == [64, 64]
        with page.expect_download() as started:
            card.get_by_text(words["download"]).click()
        assert started.value.path().read_bytes()[4:8] == b"ftyp"
        card.get_by_text(words["again"]).click()
        cards(page, "done", 2)
        with app.client() as client:
            again, preview = client.get("/api/jobs").json()
        assert (preview["preset"], again["preset"]) == ("fast", "standard")
        assert (preview["seed"], preview["picture"]) == (again["seed"], again["picture"])
        assert visitor.hosts() == {app.url.removeprefix("http://")}
        assert browser.outside == []
        assert visitor.errors == []


def test_the_language_can_be_switched_and_is_remembered_and_nothing_is_lost(
    browser: Chromium, app: App, photo: Path
) -> None:
    with browser.visitor(ENGLISH) as visitor:
        page = opened(visitor, app.url)
        fill(page, photo, prompt="a cat in the rain")
        unfold(page)
        number(page, "frames", 7)
        expect(page.locator("#custom-estimate")).to_contain_text("7 frames")  # and what was typed is kept with it
        page.click("[data-language=zh]")
        page.wait_for_selector("html[lang=zh-CN][data-ready=true]", timeout=LONG_MS)
        expect(page.locator("#standard")).to_have_text("标准")
        expect(page.locator("#prompt textarea")).to_have_value("a cat in the rain")
        expect(page.locator("#pictures img")).to_have_count(1)
        unfold(page)
        expect(page.locator("#frames input[type=number]")).to_have_value("7")
        second = visitor.open(app.url)
        expect(second.locator("#fast")).to_have_text("快速预览")
        page.fill("#seed textarea, #seed input", "x")
        page.click("#fast")
        expect(page.get_by_text("种子必须是整数")).to_be_visible()


def test_a_running_job_shows_steps_time_and_a_preview_and_can_be_cancelled(
    english: Page, app: App, photo: Path
) -> None:
    fill(english, photo)
    english.click("#standard")
    cards(english, "done")  # from which it knows how long the next one takes
    english.locator("#pictures button[aria-label='Clear']").click()
    card = slow(english, photo)
    expect(card.locator(".state")).to_have_text(re.compile(r"Step \d+ of 100 · about .+ left"), timeout=LONG_MS)
    assert axe(english) == []
    expect(card.locator("img.preview")).to_be_visible(timeout=LONG_MS)
    assert card.locator("img.preview").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    card.get_by_text("Cancel").click()
    expect(card).to_have_attribute("data-state", "cancelled", timeout=LONG_MS)
    card.get_by_text("Try again").focus()
    english.keyboard.press("Enter")
    expect(card).to_have_attribute("data-state", "running", timeout=LONG_MS)
    expect(card).to_be_focused()  # the button is gone: neither the place is lost, nor is another action near
    english.keyboard.press("Tab")
    english.keyboard.press("Enter")
    expect(card).to_have_attribute("data-state", "cancelled", timeout=LONG_MS)
    card.get_by_text("Delete").click()
    expect(english.locator("#jobs [data-job]")).to_have_count(1)
    assert [job["state"] for job in json.loads(app.get("/api/jobs")[1])] == ["done"]


def test_a_reload_and_a_second_tab_show_the_same_job(browser: Chromium, app: App, photo: Path) -> None:
    with browser.visitor(ENGLISH) as visitor:
        page = opened(visitor, app.url)
        name = slow(page, photo).get_attribute("data-job")
        page.reload()
        same = page.locator(f"[data-job='{name}']")
        expect(same).to_have_attribute("data-state", "running", timeout=LONG_MS)
        expect(page.locator("#prompt textarea")).to_have_value("a cat turns its head")
        other = opened(visitor, app.url).locator(f"[data-job='{name}']")
        expect(other.locator(".state")).to_have_text(re.compile("Step"))
        other.get_by_text("Cancel").click()
        expect(same).to_have_attribute("data-state", "cancelled", timeout=LONG_MS)


def test_a_restart_of_the_server_in_the_middle(browser: Chromium, models: Path, tmp_path: Path, photo: Path) -> None:
    with serving(models, tmp_path) as first, browser.visitor(ENGLISH) as visitor:
        first.wait_until_ready()
        page = opened(visitor, first.url)
        name = slow(page, photo).get_attribute("data-job")
        card = page.locator(f"[data-job='{name}']")
        first.process.kill()
        first.process.wait()
        expect(page.get_by_text("The server does not answer; trying again.")).to_be_visible()
        with serving(models, tmp_path, port=int(first.url.rpartition(":")[2])) as second:
            second.wait_until_ready()
            expect(card.locator(".state")).to_have_text(re.compile(r"Step \d+ of 100"), timeout=LONG_MS)
            expect(page.get_by_text("The server does not answer")).to_be_hidden()
            expect(page.locator("#pictures img")).to_have_count(1)
            page.click("#fast")  # the form goes on, too
            expect(page.locator("#jobs [data-job]")).to_have_count(2, timeout=LONG_MS)


def test_a_full_queue_is_said_and_pictures_that_had_no_room_stay(
    english: Page, app: App, photo: Path, tmp_path: Path
) -> None:
    card = slow(english, photo)
    pictures = []
    for shade in range(7):
        pictures.append(tmp_path / f"{shade}.png")
        Image.new("RGB", (64, 64), (30 * shade, 0, 0)).save(pictures[-1])
    english.locator("#pictures button[aria-label='Clear']").click()
    fill(english, *pictures)
    english.click("#fast")
    expect(english.get_by_text("5 of 7 are handed in, the others stay here: the queue is full")).to_be_visible()
    expect(english.locator("#pictures img")).to_have_count(2)
    expect(english.locator("#jobs [data-state=queued]")).to_have_count(5)
    expect(english.locator("#jobs [data-state=queued] .state").nth(1)).to_contain_text("Waiting; 2 before it")
    english.click("#fast")
    expect(english.get_by_text("the queue is full: 5 are waiting").first).to_be_visible()
    card.get_by_text("Cancel").click()
    expect(english.locator("#jobs [data-state=done]")).to_have_count(5, timeout=LONG_MS)


def test_what_does_not_fit_is_grey_with_the_reason_and_follows_memory(
    browser: Chromium, models: Path, tmp_path: Path, photo: Path
) -> None:
    """The smoke model by the name of I2VGen-XL, and so with what its table says of memory."""
    shutil.copytree(models / "smoke", tmp_path / "models" / "i2vgen-xl")
    ram = memory.made(tmp_path / "ram", total_bytes=40 * GIB, free_bytes=20 * GIB)
    with (
        serving(tmp_path / "models", tmp_path, "--model", "i2vgen-xl", env=ram.environment()) as app,
        browser.visitor(ENGLISH) as first,
        browser.visitor(CHINESE) as second,
    ):
        app.wait_until_ready()
        english, chinese = opened(first, app.url), opened(second, app.url)
        for page, reason in ((english, "needs 31.7 GB, 21.5 GB free"), (chinese, "需要 31.7 GB，可用 21.5 GB")):
            unfold(page)
            grey = page.locator("#preset .choice", has=page.locator("input[value='24gb']"))
            expect(grey.locator("input")).to_be_disabled()
            expect(grey).to_contain_text(reason)
            states = page.locator("#size input").evaluate_all("inputs => inputs.map((input) => input.disabled)")
            assert set(states) == {True, False}
            assert axe(page) == []
        by_force = "input => { input.disabled = false; input.click(); }"
        english.locator("#size input:disabled").first.evaluate(by_force)  # the server looks, too
        fill(english, photo)
        expect(english.locator("#custom")).to_be_disabled()
        expect(english.locator("#custom-estimate")).to_contain_text("not enough memory: it needs")
        ram.set(40 * GIB, 2 * GIB)  # somebody else's program takes nearly all
        for page, text in ((english, "not enough memory"), (chinese, "内存或显存不足")):
            for name in ("standard", "fast"):
                expect(page.locator(f"#{name}")).to_be_disabled(timeout=LONG_MS)
                expect(page.locator(f"#{name}-estimate")).to_contain_text(text)
        ram.set(40 * GIB, 36 * GIB)  # and ends
        for page in (english, chinese):
            expect(page.locator("#preset input[value='24gb']")).to_be_enabled(timeout=LONG_MS)
            expect(page.locator("#standard")).to_be_enabled()
            expect(page.locator("#preset input[value='40gb']")).to_be_disabled()


def test_a_video_that_is_dropped_back_restores_everything(english: Page, app: App, photo: Path, tmp_path: Path) -> None:
    fill(english, photo, prompt="a cat, 一只猫")
    unfold(english)
    number(english, "frames", 6)
    english.fill("#seed textarea, #seed input", "123")
    english.click("#custom")
    card = cards(english, "done")
    with english.expect_download() as started:
        card.get_by_text("Download").click()
    file = tmp_path / "video.mp4"
    started.value.save_as(file)
    english.evaluate("localStorage.clear()")
    english.reload()
    english.wait_for_selector("html[data-ready=true]")
    expect(english.locator("#prompt textarea")).to_have_value("")
    english.set_input_files("#pictures input[type=file]", file)
    expect(english.locator("#prompt textarea")).to_have_value("a cat, 一只猫")
    expect(english.locator("#pictures img")).to_have_count(1)
    unfold(english)
    expect(english.locator("#frames input[type=number]")).to_have_value("6")
    expect(english.locator("#seed textarea, #seed input")).to_have_value("123")
    english.click("#custom")
    cards(english, "done", 2)
    with app.client() as client:
        one, other = client.get("/api/jobs").json()
    assert (one["picture"], one["seed"], one["settings"]) == (other["picture"], other["seed"], other["settings"])


def test_reuse_keep_and_compare(english: Page, app: App, photo: Path) -> None:
    fill(english, photo)
    english.click("#fast")
    cards(english, "done")
    english.fill("#prompt textarea", "a dog")
    english.click("#fast")
    both = cards(english, "done", 2)
    both.nth(1).get_by_text("Use these settings").click()
    expect(english.locator("#prompt textarea")).to_have_value("a cat turns its head")
    both.nth(1).locator("[data-does=pin]").click()
    expect(both.nth(1).locator("[data-does=pin]")).to_have_attribute("aria-pressed", "true")
    both.nth(0).get_by_text("Compare").click()
    expect(both.nth(0).locator("[data-does=compare]")).to_have_attribute("aria-pressed", "true")
    both.nth(1).get_by_text("Compare").click()
    dialog = english.locator("dialog")
    expect(dialog.locator("video")).to_have_count(2)
    expect(dialog.locator("table")).to_contain_text("a dog")
    english.wait_for_function(
        "() => [...document.querySelectorAll('dialog video')].every((each) => each.currentTime > 0)"
    )
    english.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_older_jobs_come_in_their_order_and_none_is_left_out(browser: Chromium, models: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    store = JobStore(Database(f"sqlite:///{tmp_path}/outputs/jobs.sqlite3"))
    order = Order("smoke", "ab" * 32, "a cat", "fast", Preset(64, 64, 8, 4, 8, 9.0), 7, "en")
    numbers = [f"job-{number:03}" for number in range(140)]
    for each in numbers:
        store.submit(order, number=each)
        store.cancel(each)
    store.close()
    with serving(models, tmp_path) as app, browser.visitor() as visitor:
        app.wait_until_ready()
        page = opened(visitor, app.url)
        shown = page.locator("#jobs [data-job]")
        expect(shown).to_have_count(100)
        with app.client() as client:  # neither what is far below nor the end of the list that goes loses others
            assert client.post(f"/api/jobs/{numbers[5]}/pin").status_code == 200
            assert client.delete(f"/api/jobs/{numbers[40]}").status_code == 200
        expect(shown).to_have_count(99)
        more = page.get_by_text("Show older ones")
        more.click()
        expect(shown).to_have_count(129)
        more.click()
        expect(shown).to_have_count(139)
        expect(more).to_be_hidden()
        left = [number for number in reversed(numbers) if number != numbers[40]]
        assert shown.evaluate_all("cards => cards.map((card) => card.dataset.job)") == left


def test_the_browser_says_when_a_video_is_done_and_nobody_looks(browser: Chromium, app: App, photo: Path) -> None:
    with browser.visitor(ENGLISH, permissions=["notifications"]) as visitor:
        page = opened(visitor, app.url)
        page.get_by_text("Tell me when it is done").click()
        expect(page.get_by_text("Tell me when it is done")).to_have_attribute("aria-pressed", "true")
        # The browser's own are shown where no test can look: those that the page makes are noted on their way.
        page.evaluate("""() => {
            window.said = [];
            window.Notification = class extends Notification {
              constructor(title, options) { super(title, options); window.said.push([title, options.body]); }
            };
        }""")
        fill(page, photo)
        page.click("#fast")
        cards(page, "done")
        assert page.evaluate("window.said") == []  # somebody looked
        page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true })")
        page.click("#fast")
        cards(page, "done", 2)
        assert page.evaluate("window.said") == [["A video is done.", "a cat turns its head"]]


def test_an_example_fills_the_form(english: Page) -> None:
    english.click("[data-example=boat]")
    expect(english.locator("#pictures img")).to_have_count(1)
    expect(english.locator("#prompt textarea")).to_have_value(re.compile("boat"))


def test_a_picture_can_be_pasted_anywhere(english: Page, photo: Path) -> None:
    paste = """async (data) => {
      const given = new DataTransfer();
      given.items.add(new File([Uint8Array.from(data)], "photo.jpg", { type: "image/jpeg" }));
      const event = new ClipboardEvent("paste", { clipboardData: given, bubbles: true, cancelable: true });
      document.querySelector("#prompt textarea").dispatchEvent(event);
    }"""
    english.evaluate(paste, list(photo.read_bytes()))
    expect(english.locator("#pictures img")).to_have_count(1)
    english.fill("#prompt textarea", "a cat")
    english.click("#fast")
    cards(english, "done")


def test_the_panel_tells_of_the_machine_and_loads_the_model_again(english: Page, app: App) -> None:
    unfold(english, "system-panel")
    panel = english.locator("#system")
    expect(panel).to_contain_text("0 running, 0 of at most 5 waiting")
    expect(panel).to_contain_text("GB free")
    expect(panel.locator("[data-model=smoke]")).to_have_text("Load smoke again")
    before = app.log.read_text().count("Smoke model loaded")
    panel.locator("[data-model=smoke]").click()
    wait_for(lambda: app.log.read_text().count("Smoke model loaded") > before)
    expect(panel.locator(".workers")).to_contain_text("ready", timeout=LONG_MS)
    unfold(english, "summary")
    english.click("#look")
    expect(english.locator("#log textarea")).to_have_value(re.compile("jingxiang"))


def test_the_panel_says_that_videos_get_faster(browser: Chromium, app: App) -> None:
    store = JobStore(Database(f"sqlite:///{app.outputs / 'jobs.sqlite3'}"))
    with browser.visitor(CHINESE) as visitor:
        page = opened(visitor, app.url)
        unfold(page, "system-panel")
        said = page.locator("#system [role=status]")
        worker = WorkerStatus("zz", "loading", "smoke", speed_of="512x512x16")
        try:
            for beating, text in (
                (replace(worker, speed="compiling"), "正在后台为 512x512x16 编译，后续视频会更快"),
                (replace(worker, speed="compiled"), "已为 512x512x16 编译完成：此后速度更快"),
            ):
                store.beat(beating)
                expect(said).to_have_text(text)
        finally:
            store.bury("zz")
            store.close()
        expect(said).to_have_text("")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(browser: Chromium, app: App, photo: Path, size: tuple[int, int], scheme: Any) -> None:
    """axe-core finds nothing serious, with everything open, and nothing is wider than the screen."""
    with browser.visitor(CHINESE, size, color_scheme=scheme) as visitor:
        page = opened(visitor, app.url)
        fill(page, photo)
        page.click("#fast")
        cards(page, "done")
        for folded in ("settings", "system-panel", "summary"):
            unfold(page, folded)
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_whole_way_by_keyboard(english: Page, photo: Path) -> None:
    """Every control can be reached in the order of the page, and used there."""
    seen = []
    for _ in range(60):
        english.keyboard.press("Tab")
        seen.append(english.evaluate("names => document.activeElement.closest(names)?.id", ", ".join(PARTS)))
    assert [f"#{name}" for index, name in enumerate(seen) if name and seen.index(name) == index] == PARTS
    english.set_input_files("#pictures input[type=file]", photo)
    expect(english.locator("#pictures img")).to_have_count(1)
    english.fill("#prompt textarea", "a cat")
    english.focus("#fast")
    english.keyboard.press("Enter")
    cards(english, "done")


def test_users_do_not_see_each_others_jobs(browser: Chromium, models: Path, tmp_path: Path, photo: Path) -> None:
    with guarded(models, tmp_path) as app:

        def logged_in(visitor: Visitor, name: str) -> Page:
            page = visitor.open(app.url)
            assert axe(page) == []
            page.fill("#name", name)
            page.fill("#password", f"{name}-password")
            page.keyboard.press("Enter")
            page.wait_for_selector("html[data-ready=true]", timeout=LONG_MS)
            return page

        with browser.visitor() as first, browser.visitor() as second, browser.visitor() as third:
            wang, zhao = logged_in(first, "wang"), logged_in(second, "zhao")
            fill(wang, photo)
            wang.click("#fast")
            cards(wang, "done")
            expect(zhao.locator("#jobs [data-job]")).to_have_count(0)
            expect(zhao.locator("#jobs .empty")).to_be_visible()
            li = logged_in(third, "li")
            cards(li, "done")
            for panel in ("#system-panel", "#summary"):
                expect(wang.locator(panel)).to_be_hidden()
                expect(li.locator(panel)).to_be_visible()
            unfold(li, "system-panel")
            expect(li.locator("#system [data-model]")).to_have_count(1)
            wang.get_by_text("Log out wang").click()
            wang.wait_for_selector("#password")
            assert wang.request.get(f"{app.url}/api/jobs").status == 401


def test_below_a_folder_of_another_site(browser: Chromium, app: App, photo: Path) -> None:
    with below.serving(app.url) as url, browser.visitor() as visitor:
        page = opened(visitor, url)
        fill(page, photo)
        page.click("#fast")
        card = cards(page, "done")
        plays(page, card)
        page.click("[data-example=boat]")
        expect(page.locator("#prompt textarea")).to_have_value(re.compile("boat"))
        assert visitor.errors == []
