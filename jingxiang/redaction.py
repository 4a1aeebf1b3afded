"""Making a text safe to be shown in public: no secrets, no home folder, no user name."""

from __future__ import annotations

import os
import re
from pathlib import Path

HIDDEN = "…"
PATTERNS = (
    # user:password@ or token@ in an address
    (re.compile(r"(?<=://)[^/\s'\"]+@"), f"{HIDDEN}@"),
    # tokens by their well-known beginnings: Hugging Face, GitHub, PyPI, ModelScope
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|pypi-|ms-)[A-Za-z0-9_-]{16,}"), HIDDEN),
    # NAME=value and "Name: value" where the name says that it is a secret, with the kind of login before the value
    (
        re.compile(
            r"(?i)((?:\b|_)(?:token|password|passwd|secret|api[_-]?key|authorization))([\"']?\s*[=:]\s*[\"']?)"
            r"(?:(?:bearer|basic|digest|token)\s+)?[^\s\"']+"
        ),
        rf"\1\2{HIDDEN}",
    ),
)


def redact(text: str, home: Path | None = None) -> str:
    """The text with what is secret or personal replaced."""
    folder = str(home or Path.home())
    if len(folder) > 1:
        # not in ://root:password@, where it would also hide from the patterns below what they look for
        text = re.sub(rf"(?<!:/){re.escape(folder)}(?=/|$|[\s'\":,;)])", "~", text)
    for name, value in os.environ.items():
        if len(value) >= 8 and re.search(r"(?i)token|password|secret|api_?key", name):
            text = text.replace(value, HIDDEN)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text
