"""The app's texts in the user's language; `zh.json` beside this file holds the Chinese."""

from __future__ import annotations

from pathlib import Path

from jingxiang.language import translator

FOLDER = Path(__file__).resolve().parent
tr = translator(FOLDER)
