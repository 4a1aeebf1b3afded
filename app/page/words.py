"""The texts of the page's scripts: what they write as `t("…")`, which `zh.json` has the Chinese of."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from app.texts import FOLDER
from jingxiang.language import catalog

STATIC = Path(__file__).resolve().parent / "static"
TEXT = re.compile(r'\bt\("([^"\\]+)"')


@functools.cache
def written() -> frozenset[str]:
    """All of them, in English."""
    return frozenset(
        text for script in STATIC.glob("*.js") for text in TEXT.findall(script.read_text(encoding="utf-8"))
    )


@functools.cache
def words(language: str) -> dict[str, str]:
    """What the scripts need besides the English that they have."""
    if language == "en":
        return {}
    chinese = catalog(FOLDER)
    return {text: chinese[text] for text in sorted(written())}
