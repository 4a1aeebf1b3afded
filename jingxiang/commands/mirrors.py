"""`mirrors`: where bytes may come from, and with `--probe` which of it works now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jingxiang import conda_locks, console, locks, mirrors, ordering, pip_client, ranking, samples
from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.language import tr
from jingxiang.mirrors import AUTO, MirrorSet, Source
from jingxiang.places import Places
from jingxiang.profiles import CPU
from jingxiang.ranking import Ranking
from jingxiang.redaction import redact
from jingxiang.samples import Measured


@dataclass(frozen=True)
class Row:
    """One space of one mirror; `measured` is None where it was not, or could not be, asked."""

    source: Source
    measured: Measured | None = None

    def address(self) -> str:
        return redact(self.source.url) or tr("as configured on this machine")

    def state(self) -> str:
        if self.measured is None:
            return tr("not measured: as configured on this machine")
        if self.measured.reason:
            return redact(self.measured.reason)
        return ", ".join(part for part in (tr("ok"), self.measured.note) if part)

    def to_json(self) -> dict[str, object]:
        source, measured = self.source, self.measured
        entry: dict[str, object] = {
            "space": source.space, "mirror": source.mirror, "layout": source.layout, "domain": source.domain,
            "address": redact(source.url),
        }  # fmt: skip
        if measured is not None:
            speed = measured.speed_mb_s
            entry |= {
                "ok": not measured.reason,
                "first_byte_s": None if measured.reason else round(measured.first_s, 4),
                "speed_mb_s": None if measured.reason or speed is None else round(speed, 2),
                "state": self.state(),
            }
        return entry


class NothingAnswers(JingxiangError):
    """Not one mirror of any space that was asked is of use now."""

    def __init__(self) -> None:
        super().__init__(tr("no mirror can be used now"), hints=("python3 tasks.py doctor",))


def show(places: Places, *, probe: bool, space: str, as_json: bool) -> None:
    """Print the mirrors of all spaces, or of one; with `probe` ask each of them for a real file first."""
    known = mirrors.load(places.root)
    if space and space not in mirrors.LAYOUTS:
        raise UnknownName("space", space, mirrors.LAYOUTS)
    spaces = [space] if space else list(mirrors.LAYOUTS)
    if probe:
        rows = _probed(places, known, spaces)
    else:
        rows = [Row(source) for each in spaces for source in known.offering(each)]
    kept = {name: each for name, each in ranking.fresh(places.home, time.time()).items() if name in spaces}
    if as_json:
        console.data_json({"mirrors": [row.to_json() for row in rows], "order": _order(known, spaces, kept)})
    else:
        console.table(_measured_table(rows) if probe else _plain_table(rows))
        _show_order(known, kept, spaces)
    asked = [row.measured for row in rows if row.measured is not None]
    if asked and all(each.reason for each in asked):
        raise NothingAnswers


def _probed(places: Places, known: MirrorSet, spaces: Iterable[str]) -> list[Row]:
    """Every source with how it did; which are good, fastest first, is kept for an hour."""
    python = Path(sys.executable)
    packages = [
        package for name in (CPU.name, "toolkit") for package in locks.read(places.locks / f"{name}.txt").packages
    ]
    settings = pip_client.settings(python)
    conda = places.locks / conda_locks.NAME
    wanted = samples.wanted(packages, settings["index-url"], conda_locks.read(conda).packages if conda.exists() else ())
    measured = ordering.measure(known, spaces, home=places.home, wanted=wanted, settings=settings)
    return [Row(source, measured.get(source)) for space in spaces for source in known.offering(space)]


def _order(known: MirrorSet, spaces: Iterable[str], kept: Mapping[str, Ranking]) -> dict[str, object]:
    """By space, the mirrors in the order in which --mirror auto asks them, and how old the measurement is."""
    order: dict[str, object] = {}
    for space in spaces:
        fastest = kept.get(space)
        names = [source.mirror for source in known.order(space, AUTO, fastest.names if fastest else ())]
        order[space] = {"names": names, "measured_s_ago": round(fastest.age_s, 1) if fastest else None}
    return order


def _show_order(known: MirrorSet, kept: Mapping[str, Ranking], spaces: Iterable[str]) -> None:
    """The good ones by space, and when that was measured."""
    if not kept:
        console.line(
            "order", tr("not measured within the last hour: {command}", command="python3 tasks.py mirrors --probe")
        )
        return
    parts = [f"{space} {' > '.join(kept[space].names)}" for space in spaces if space in kept]
    console.line("order", f"{' · '.join(parts)}   {_age(max(each.age_s for each in kept.values()))}")


def _age(seconds: float) -> str:
    if seconds < 60:
        return tr("(measured now, kept 1 h)")
    return tr("(measured {minutes:.0f} min ago, kept 1 h)", minutes=seconds / 60)


def _plain_table(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    head = (tr("space"), tr("mirror"), tr("layout"), tr("domain"), tr("address"))
    return [
        head,
        *((row.source.space, row.source.mirror, row.source.layout, row.source.domain, row.address()) for row in rows),
    ]


def _measured_table(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [(tr("space"), tr("mirror"), tr("first byte"), tr("speed"), tr("state"))]
    for row in rows:
        first = speed = "-"
        if (measured := row.measured) and not measured.reason:
            first = f"{measured.first_s * 1000:.0f} ms"
            speed = f"{rate:.1f} MB/s" if (rate := measured.speed_mb_s) else "-"
        colour = console.GREEN if first != "-" else console.YELLOW
        table.append((row.source.space, row.source.mirror, first, speed, console.paint(row.state(), colour)))
    return table
