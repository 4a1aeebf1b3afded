"""What somebody does on the page of the app in a browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.peers.browser import Visitor

LONG_MS = 60_000  # for what takes a model


def opened(visitor: Visitor, url: str) -> Page:
    """A page that is ready: what there is is shown, and jobs are taken."""
    page = visitor.open(url)
    page.wait_for_selector("html[data-ready=true]", timeout=LONG_MS)
    page.wait_for_selector("#fast-estimate .estimate")
    return page


def fill(page: Page, *pictures: Path, prompt: str = "a cat turns its head") -> None:
    """Put pictures and, if the model takes one, a prompt into the form."""
    page.set_input_files("#pictures input[type=file]", pictures)
    expect(page.locator("#pictures img")).to_have_count(len(pictures))
    if prompt:
        page.fill("#prompt textarea", prompt)


def unfold(page: Page, part: str = "settings") -> None:
    page.click(f"#{part} button")


def number(page: Page, name: str, value: int) -> None:
    """Type one of the settings."""
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Tab")


def cards(page: Page, state: str, count: int = 1) -> Locator:
    """The cards of so many jobs, when they have come to that state."""
    found = page.locator(f"#jobs [data-state={state}]")
    expect(found).to_have_count(count, timeout=LONG_MS)
    return found


def plays(page: Page, card: Locator) -> None:
    """Wait until its video is there and moves."""
    video = card.locator("video").element_handle()
    page.wait_for_function("video => video.readyState >= 2 && video.currentTime > 0.1", arg=video, timeout=LONG_MS)
