"""In which order the mirrors of each space are asked: as told, as measured within the last hour, or as measured now.

Standard library only: the bootstrap asks them before anything is installed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jingxiang import ranking, samples
from jingxiang.fetch import network
from jingxiang.fetch.client import Client
from jingxiang.mirrors import AUTO, OFFICIAL, MirrorSet, Source
from jingxiang.samples import Measured, Wanted

# Places in pip's settings that may have builds of PyTorch, which its index does not have.
OWN_PLACES = ("find-links", "extra-index-url")


def orders(
    known: MirrorSet, mirror: str, spaces: Iterable[str], *, home: Path, wanted: Wanted, settings: Mapping[str, str]
) -> dict[str, tuple[Source, ...]]:
    """By space. `settings` are pip's; `wanted` is what is measured with, where nothing has been within the hour."""
    spaces = tuple(spaces)
    fastest: dict[str, tuple[str, ...]] = {}
    if mirror == AUTO:
        fastest = {space: each.names for space, each in ranking.fresh(home, time.time()).items()}
        missing = [space for space in spaces if space not in fastest]
        fastest |= _names(measure(known, missing, home=home, wanted=wanted, settings=settings))
    own = [OFFICIAL] if not settings.keys().isdisjoint(OWN_PLACES) else []
    found = {}
    for space in spaces:
        offered = mirror in {source.mirror for source in known.offering(space)}
        first = own if space == "torch" and not offered else []
        found[space] = known.order(space, mirror, [*first, *fastest.get(space, ())])
    return found


def measure(
    known: MirrorSet, spaces: Iterable[str], *, home: Path, wanted: Wanted, settings: Mapping[str, str]
) -> dict[Source, Measured]:
    """Ask every source of the spaces now; which are good, fastest first, is kept for an hour."""
    asked = [source for space in spaces for source in known.offering(space) if samples.measurable(source, wanted)]
    if not asked:
        return {}
    measured = dict(zip(asked, _measured(asked, wanted, settings), strict=True))
    with contextlib.suppress(OSError):  # what cannot be kept is measured again; who has to write there says why not
        ranking.keep(home, _names(measured), time.time())
    return measured


def answering(
    known: MirrorSet, space: str, mirror: str, *, home: Path, wanted: Wanted, settings: Mapping[str, str]
) -> tuple[str, ...]:
    """The good mirrors of a space, fastest first: as measured within the hour, or now. If `mirror` is one of them,
    nobody else is asked."""
    named = [source for source in known.offering(space) if source.mirror == mirror]
    if named and not any(each.reason for each in _measured(named, wanted, settings)):
        return (mirror,)
    if found := ranking.fresh(home, time.time()).get(space):
        return found.names
    return _names(measure(known, [space], home=home, wanted=wanted, settings=settings)).get(space, ())


def _measured(asked: Sequence[Source], wanted: Wanted, settings: Mapping[str, str]) -> list[Measured]:
    client = Client(network.of(settings))
    try:
        return samples.measure_all(asked, wanted, client)
    finally:
        client.close()


def _names(measured: Mapping[Source, Measured]) -> dict[str, tuple[str, ...]]:
    """By space, the good ones, fastest first."""
    by_space: dict[str, dict[str, Measured]] = {}
    for source, each in measured.items():
        by_space.setdefault(source.space, {})[source.mirror] = each
    return {space: samples.fastest(group) for space, group in by_space.items()}
