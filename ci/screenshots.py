"""Makes the pictures of the page that both READMEs show again: ci/screenshots/{en,zh}-{desktop,phone}.png.

    apt-get install chromium fonts-noto-cjk
    .jingxiang/environments/i2v-dev-*/bin/python -m ci.screenshots [FOLDER]

The app runs with the smoke model, so the videos in them are noise; the pictures that they are made from are the example
pictures. Each screenshot has a job that is being made and some that are done.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from app import examples
from app.examples import Example
from tests.peers.app import App, serving
from tests.peers.browser import CHINESE, ENGLISH, PHONE, Chromium, chromium

FOLDER = Path(__file__).resolve().parent / "screenshots"
MOST_BYTES = 250_000
COLORS = (256, 192, 128, 96, 64, 48)
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
# Width and height in CSS pixels, and how many pixels each of them is wide.
SCREENS: dict[str, tuple[tuple[int, int], float]] = {"desktop": ((1440, 1000), 1), "phone": (PHONE, 2)}
READY = 'document.documentElement.dataset.ready === "true"'
SETTLE_MS = 1500  # pictures and videos of the cards
STEPS, SHOWN_STEP = 100, 30  # of the job that is being made


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    *done, shown = examples.load()
    with (
        tempfile.TemporaryDirectory(prefix="jingxiang-shots-") as scratch,
        serving(Path(scratch) / "models", Path(scratch), "--batch", "1") as app,
        chromium() as browser,
    ):
        app.wait_until_ready()
        for seed, each in enumerate(done):
            assert app.ended(order(app, each, preset="standard", seed=seed))["state"] == "done"
        for language in LANGUAGES:
            for screen in SCREENS:
                file = folder / f"{language}-{screen}.png"
                size = save(shot(app, browser, shown, language, screen), file)
                sys.stderr.write(f"{file.name}: {size:,} bytes\n")


def order(app: App, example: Example, **settings: object) -> str:
    """Hand in a job; its id."""
    return str(app.post(example.picture, prompt=example.prompt, **settings).json()["id"])


def shot(app: App, browser: Chromium, example: Example, language: str, screen: str) -> bytes:
    """A PNG of the page, with the example in its form and being made."""
    size, scale = SCREENS[screen]
    with browser.visitor(LANGUAGES[language], size, scale=scale) as visitor:
        page = visitor.open(app.url)
        page.wait_for_function(READY)
        fill(page, example)
        number = order(app, example, preset="standard", steps=STEPS)
        app.running(number, SHOWN_STEP)
        page.wait_for_selector(f'[data-job="{number}"][data-state=running]')
        page.wait_for_timeout(SETTLE_MS)
        made: bytes = page.screenshot()
    with app.client() as client:
        client.delete(f"/api/jobs/{number}")
        app.ended(number)
        client.delete(f"/api/jobs/{number}")
    return made


def fill(page: Page, example: Example) -> None:
    page.set_input_files("#pictures input[type=file]", example.picture)
    page.wait_for_timeout(SETTLE_MS)  # the page answers to a picture by itself
    page.fill("#prompt textarea", example.prompt)
    page.wait_for_timeout(SETTLE_MS)
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0) }")


def save(png: bytes, file: Path) -> int:
    """With a palette, of as many colors as the size allows; the bytes that it takes."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    reduced = [picture.quantize(colors) for colors in COLORS]
    dithered = picture.quantize(palette=reduced[0])  # shows no bands, and is larger
    for each in (dithered, *reduced):
        body = io.BytesIO()
        each.save(body, "PNG", optimize=True)
        if body.tell() <= MOST_BYTES:
            break
    file.write_bytes(body.getvalue())
    return body.tell()


if __name__ == "__main__":
    main()
