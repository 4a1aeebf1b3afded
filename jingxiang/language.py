"""User-visible texts in English and Chinese. The code holds the English; `zh.json` beside it holds the Chinese.

Parsed by Python 3.6 (see `bootstrap`): no newer syntax here.
"""

import json
import os
from pathlib import Path
from typing import Callable, Dict, Optional

LANGUAGES = ("en", "zh")


def chosen() -> str:
    """`en` or `zh`: `--lang` (kept in JINGXIANG_LANG) before the locale."""
    explicit = os.environ.get("JINGXIANG_LANG")
    if explicit in LANGUAGES:
        return str(explicit)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if os.environ.get(name):
            return "zh" if os.environ[name].startswith("zh") else "en"
    return "en"


def catalog(folder: Path) -> "Dict[str, str]":
    """The Chinese texts of a package, by their English template."""
    return dict(json.loads((folder / "zh.json").read_text(encoding="utf-8")))


def translator(folder: Path) -> "Callable[..., str]":
    """A function that gives a text in the user's language and fills in its `{fields}`."""
    loaded = {}  # type: Dict[str, Dict[str, str]]

    def tr(template: str, language: "Optional[str]" = None, **fields: object) -> str:
        if (language or chosen()) == "zh":
            if "zh" not in loaded:
                loaded["zh"] = catalog(folder)
            template = loaded["zh"].get(template, template)
        return template.format(**fields) if fields else template

    return tr


tr = translator(Path(__file__).resolve().parent)
