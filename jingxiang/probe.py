"""Which mirrors answer now, fastest first.

Standard library only: the bootstrap measures before anything is installed.
"""

from __future__ import annotations

import base64
import http.client
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message

from jingxiang import __version__
from jingxiang.language import tr

TIMEOUT_S = 3.0
# A read that is under way when the time is over may still bring the block that ends it.
GRACE_S = 0.2
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


@dataclass(frozen=True)
class Reply:
    """What a server sent in time. `status` 0: nothing that is HTTP; `problem` says why the reply is of no use.

    `url` is where redirects led to, `total` the bytes of the whole file (-1: not said), `late` whether the time was
    over before the body was.
    """

    status: int = 0
    url: str = ""
    headers: Message = field(default_factory=Message)
    body: bytes = b""
    total: int = -1
    first_s: float = 0.0
    seconds: float = 0.0
    late: bool = False
    problem: str = ""


def get(url: str, deadline: float, *, limit: int = PAGE_BYTES, ranged: bool = False, accept: str = "*/*") -> Reply:
    """At most `limit` bytes of a file, and an answer when `time.monotonic()` reaches the deadline, come what may.

    The request runs in a thread that is left behind if need be: a name server, a TLS handshake or headers that come
    byte by byte cannot be limited from within.
    """
    start = time.monotonic()
    replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    headers = {"User-Agent": USER_AGENT, "Accept": accept}
    if ranged:
        headers["Range"] = f"bytes=0-{limit - 1}"

    def exchange() -> None:
        replies.put(_exchange(url, headers, deadline, limit))

    threading.Thread(target=exchange, daemon=True).start()
    try:
        return replies.get(timeout=max(0.0, deadline + GRACE_S - start))
    except queue.Empty:
        return Reply(seconds=time.monotonic() - start, late=True, problem=tr("timed out"))


def _exchange(url: str, headers: Mapping[str, str], deadline: float, limit: int) -> Reply:
    start = time.monotonic()
    try:
        request = _request(url, headers)
        with urllib.request.urlopen(request, timeout=max(0.01, deadline - start)) as response:  # noqa: S310
            return _received(response, start, deadline, limit)
    except urllib.error.HTTPError as error:
        with error:
            seconds, problem = time.monotonic() - start, _said(error.code, error.reason)
            return Reply(error.code, url, error.headers, first_s=seconds, seconds=seconds, problem=problem)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        late = isinstance(reason, TimeoutError)
        problem = (
            tr("timed out") if late else tr("no answer ({reason})", reason=getattr(reason, "strerror", "") or reason)
        )
        return Reply(seconds=time.monotonic() - start, late=late, problem=problem)


def _request(url: str, headers: Mapping[str, str]) -> urllib.request.Request:
    """A user and password in the address (a company's index) go into a header, as pip sends them."""
    # A folder on disk is an index too, by the page that a web server would show for it.
    if url.startswith("file://") and url.endswith("/"):
        url += "index.html"
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl() if at else url, headers=dict(headers))  # noqa: S310
    if at:
        login = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {login}")
    return request


def _received(response: http.client.HTTPResponse, start: float, deadline: float, limit: int) -> Reply:
    """The body up to `limit`, the deadline, or its end."""
    body, first_s, late = b"", 0.0, False
    while len(body) < limit and (block := response.read1(min(BLOCK_BYTES, limit - len(body)))):
        first_s = first_s or time.monotonic() - start
        body += block
        late = time.monotonic() > deadline
        if late:
            break
    expected, total = _sizes(response.headers)
    seconds = time.monotonic() - start
    problem = ""
    if not late and len(body) < min(expected, limit):
        problem = tr("ends after {count} of {total} bytes", count=len(body), total=expected)
    return Reply(
        response.status or 200, response.geturl(), response.headers, body, total,
        first_s=first_s or seconds, seconds=seconds, late=late, problem=problem,
    )  # fmt: skip


def _sizes(headers: Message) -> tuple[int, int]:
    """The bytes that this answer should have, and those of the whole file; -1 where it is not said."""
    length = headers.get("Content-Length") or ""
    whole = (headers.get("Content-Range") or "").rpartition("/")[2]
    expected = int(length) if length.isdecimal() else -1
    return expected, int(whole) if whole.isdecimal() else expected


def _said(code: int, words: str) -> str:
    if code == 403:
        return tr("403: blocked by its firewall")
    if 300 <= code < 400:
        return tr("{code}: its redirects lead nowhere", code=code)
    return f"{code} {words}".strip()


def ask(page: Page) -> Answer:
    """Fetch one page and look for the needle in it, within `TIMEOUT_S` in all."""
    start = time.monotonic()
    reply = get(page.url, start + TIMEOUT_S, accept="text/html")
    seconds = time.monotonic() - start
    if reply.problem or reply.late:
        return Answer(seconds, reply.problem or tr("timed out"))
    if page.needle.encode() not in reply.body:
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
