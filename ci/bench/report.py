"""The one form of every bench's result: an object for programs, a table for people."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Figure:
    """One measured value with its bar, and what peers needed for the same in the same run.

    `value` is None where it cannot be measured; then a note says why. `bar` is None for what is only told.
    """

    name: str
    value: float | None
    unit: str
    bar: float | None
    better: str = "lower"
    peers: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        if self.value is None or self.bar is None:
            return None
        return self.value <= self.bar if self.better == "lower" else self.value >= self.bar


def said(error: Exception) -> str:
    """What an error says, for a note, which may be published: in a line, without paths of this machine."""
    line = (str(error).splitlines() or [""])[0]
    for place in (str(ROOT), tempfile.gettempdir()):
        line = line.replace(place, "…")
    return f"{type(error).__name__}: {line}"


def machine() -> dict[str, object]:
    """What the figures were measured on; no name of the machine or its user."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def result(bench: str, figures: list[Figure], notes: list[str], **details: object) -> dict[str, object]:
    """The object. `details`: what a bench has besides; a `machine` among them says more of it."""
    more = details.pop("machine", {})
    assert isinstance(more, dict)
    return {
        "bench": bench,
        "machine": {**machine(), **more},
        "figures": [asdict(each) for each in figures],
        **details,
        "notes": notes,
    }


def show(bench: str, figures: list[Figure], notes: list[str], **details: object) -> None:
    """The table on stderr; with --json as an argument also the object on stdout."""
    for figure in figures:
        sign = {True: "ok  ", False: "MISS", None: "-   "}[figure.holds]
        value = "-" if figure.value is None else f"{figure.value:g}"
        limit = "" if figure.bar is None else f"{'<=' if figure.better == 'lower' else '>='} {figure.bar:g}"
        peers = ", ".join(f"{name} {each:g}" for name, each in figure.peers.items())
        sys.stderr.write(f"{sign} {figure.name:20} {value:>8} {figure.unit:6} {limit:10} {peers}\n")
    for note in notes:
        sys.stderr.write(f"     {note}\n")
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps(result(bench, figures, notes, **details), ensure_ascii=False, indent=2) + "\n")
