"""The order of mirrors as last measured, kept for an hour in the toolkit's home. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = "mirrors.json"
KEPT_S = 3600.0


@dataclass(frozen=True)
class Ranking:
    """The names of the good mirrors of one space, fastest first, and how long ago that was measured."""

    names: tuple[str, ...]
    age_s: float


def fresh(home: Path, now: float) -> dict[str, Ranking]:
    """By space, what was measured within `KEPT_S` before `now` (seconds since the epoch).

    A file that is missing, broken or from the future is no error: mirrors are measured again.
    """
    try:
        kept = json.loads((home / FILE).read_text(encoding="utf-8"))
        found = {space: _ranking(each, now) for space, each in kept.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {space: ranking for space, ranking in found.items() if ranking.names and 0 <= ranking.age_s < KEPT_S}


def _ranking(kept: Mapping[str, object], now: float) -> Ranking:
    names, measured = kept["names"], kept["measured"]
    if not isinstance(names, list) or not isinstance(measured, (int, float)):
        raise TypeError
    return Ranking(tuple(str(name) for name in names), now - measured)


def keep(home: Path, measured: Mapping[str, tuple[str, ...]], now: float) -> None:
    """Write down the names by space, in one step; what else is fresh stays."""
    entries = {
        space: {"names": list(each.names), "measured": now - each.age_s} for space, each in fresh(home, now).items()
    }
    entries |= {space: {"names": list(names), "measured": now} for space, names in measured.items()}
    home.mkdir(parents=True, exist_ok=True)
    part = home / f"{FILE}.{os.getpid()}.part"
    part.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    part.replace(home / FILE)
