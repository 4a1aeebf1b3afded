"""The app's texts in the language of whoever asks; `zh.json` beside this file holds the Chinese."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from app import cookies
from jingxiang.language import LANGUAGES, chosen, translator

FOLDER = Path(__file__).resolve().parent
COOKIE = "language"  # of a browser whose user has chosen one
_translate = translator(FOLDER)
_spoken: ContextVar[str | None] = ContextVar("spoken", default=None)


def tr(template: str, *, language: str | None = None, **fields: object) -> str:
    """A text in the language given, else the one being spoken, else the user's."""
    return _translate(template, language or _spoken.get(), **fields)


def spoken() -> str:
    """The language being spoken: `en` or `zh`."""
    return _spoken.get() or chosen()


def asked(headers: Mapping[str, str]) -> str:
    """The language that a request is to be answered in, `en` or `zh`: what its user has chosen on a page, else the
    first choice of the browser or program. The names of `headers` are looked up in small letters.
    """
    for chosen_before in cookies.values(headers.get("cookie", ""), COOKIE):
        if chosen_before in LANGUAGES:
            return chosen_before
    return "zh" if headers.get("accept-language", "").strip().lower().startswith("zh") else "en"


@contextlib.contextmanager
def speaking(language: str) -> Iterator[None]:
    """Speak one user's language while something is done for that user."""
    token = _spoken.set(language if language in LANGUAGES else None)
    try:
        yield
    finally:
        _spoken.reset(token)
