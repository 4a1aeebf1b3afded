"""What people read: aligned lines on stderr. stdout is for data alone (`data`)."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable

from jingxiang.errors import JingxiangError
from jingxiang.language import tr

VERB_COLUMNS = 9
GREEN, YELLOW, RED, BOLD, RESET = "\033[32m", "\033[33m", "\033[31m", "\033[1m", "\033[0m"
COLOUR = re.compile("\033\\[[0-9]+m")


def coloured() -> bool:
    """Colours only on a terminal, and never with NO_COLOR (https://no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    return f"{colour}{text}{RESET}" if coloured() else text


def columns(text: str) -> int:
    """Cells that a terminal needs: a Chinese character takes two, a colour none."""
    text = COLOUR.sub("", text)
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def pad(text: str, width: int) -> str:
    return text + " " * max(0, width - columns(text))


def line(verb: str, text: str) -> None:
    """One step: its verb in the first column, then what was done."""
    print(paint(pad(tr(verb), VERB_COLUMNS), BOLD) + text, file=sys.stderr, flush=True)


def more(text: str) -> None:
    """A second line of the step before it."""
    print(" " * VERB_COLUMNS + text, file=sys.stderr, flush=True)


def lines(rows: Iterable[tuple[str, ...]]) -> None:
    """Steps whose texts are in aligned columns; the first column is the verb."""
    found = [tuple(row) for row in rows]
    widths = [max(columns(row[index]) for row in found) for index in range(1, len(found[0]) - 1)] if found else []
    for verb, *cells in found:
        padded = [pad(cell, width) for cell, width in zip(cells, widths, strict=False)]
        line(verb, "  ".join([*padded, cells[-1]]).rstrip())


def warn(text: str) -> None:
    print(paint(tr("warning: "), YELLOW) + text, file=sys.stderr, flush=True)


def fail(error: JingxiangError) -> None:
    """The error's line, then what to try."""
    print(paint(tr("error: "), RED) + error.message, file=sys.stderr)
    for number, hint in enumerate(error.hints):
        print(pad(tr("try: ") if number == 0 else "", 7) + hint, file=sys.stderr)
    sys.stderr.flush()


def data(text: str) -> None:
    """A result that a script may read."""
    print(text, flush=True)


def data_json(value: object) -> None:
    data(json.dumps(value, ensure_ascii=False, indent=2))


def table(rows: Iterable[tuple[str, ...]]) -> None:
    """Rows in aligned columns on stderr."""
    lines = [tuple(row) for row in rows]
    widths = [max(columns(row[index]) for row in lines) for index in range(len(lines[0]) - 1)] if lines else []
    for row in lines:
        cells = [pad(cell, width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip(), file=sys.stderr)
    sys.stderr.flush()


def size(count: int) -> str:
    """Bytes for people: 1.5 GB (powers of ten, as disks are sold)."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
