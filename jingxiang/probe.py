"""Which mirrors answer now, fastest first.

Standard library only: the bootstrap measures before anything is installed.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jingxiang import __version__
from jingxiang.language import tr

TIMEOUT_S = 3.0
PAGE_BYTES = 4 << 20
BLOCK_BYTES = 64 << 10
USER_AGENT = f"jingxiang/{__version__}"


@dataclass(frozen=True)
class Page:
    """An address to ask, and a text that a good answer holds: the hash or name of a locked file."""

    url: str
    needle: str


@dataclass(frozen=True)
class Answer:
    """How long the page took; or `reason`, why it is of no use."""

    seconds: float
    reason: str = ""


def ask(page: Page) -> Answer:
    """Fetch one page and look for the needle in it, within `TIMEOUT_S` in all."""
    start = time.monotonic()
    headers = {"User-Agent": USER_AGENT, "Accept": "text/html"}
    body = b""
    try:
        # A folder on disk is an index too, by the page that a web server would show for it.
        url = page.url + "index.html" if page.url.startswith("file://") and page.url.endswith("/") else page.url
        request = urllib.request.Request(url, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            while (block := response.read1(BLOCK_BYTES)) and len(body) < PAGE_BYTES:
                body += block
                if time.monotonic() - start > TIMEOUT_S:  # each read is in time, but there are too many
                    return Answer(time.monotonic() - start, tr("too slow"))
    except urllib.error.HTTPError as error:
        return Answer(time.monotonic() - start, f"{error.code} {error.reason}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return Answer(time.monotonic() - start, tr("no answer ({reason})", reason=reason))
    seconds = time.monotonic() - start
    if page.needle.encode() not in body:
        return Answer(seconds, tr("answers, but does not have the locked version"))
    return Answer(seconds)


def ask_all(pages: Mapping[str, Page]) -> dict[str, Answer]:
    """Every page at once, by the same names."""
    if not pages:
        return {}
    with ThreadPoolExecutor(len(pages)) as pool:
        return dict(zip(pages, pool.map(ask, pages.values()), strict=True))


def fastest(answers: Mapping[str, Answer]) -> Iterable[str]:
    """The names of the good ones, fastest first."""
    good = [name for name, answer in answers.items() if not answer.reason]
    return sorted(good, key=lambda name: answers[name].seconds)
