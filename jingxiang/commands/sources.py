"""Whom to ask for what is not locked yet: one after another, until one of them knows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from jingxiang import console, mirrors, ordering, pip_client, samples
from jingxiang.fetch import network
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault
from jingxiang.fetch.report import Missed, Unavailable
from jingxiang.mirrors import Source
from jingxiang.places import Places

T = TypeVar("T")


@dataclass(frozen=True)
class Sources:
    """The sources of a space, in the order to ask; how to get out of here (pip's settings); and the user's token for
    the space, which is only for those that may see it."""

    space: str
    order: tuple[Source, ...]
    settings: Mapping[str, str]
    token: str = field(default="", repr=False)

    @contextmanager
    def client(self) -> Iterator[Client]:
        found = Client(network.of(self.settings))
        try:
            yield found
        finally:
            found.close()

    def first(self, name: str, ask: Callable[[Source], T]) -> tuple[str, T]:
        """The mirror that knows, and its answer. Raises `Unavailable`, with what each of them said, if none does."""
        reasons: list[tuple[str, str]] = []
        for source in self.order:
            try:
                return source.mirror, ask(source)
            except Fault as fault:
                reasons.append((source.mirror, fault.text))
        raise Unavailable([Missed(name, tuple(reasons))])


def of(places: Places, mirror: str, space: str, *, token: str = "") -> Sources:
    """Those of mirrors.toml, `mirror` first; says which."""
    settings = pip_client.settings(Path(sys.executable))
    wanted = samples.wanted((), settings["index-url"])
    known = mirrors.chosen(places.root, mirror)
    order = ordering.orders(known, mirror, [space], home=places.home, wanted=wanted, settings=settings)[space]
    console.line("mirrors", f"{space} {', '.join(source.mirror for source in order)}")
    return Sources(space, order, settings, token)
