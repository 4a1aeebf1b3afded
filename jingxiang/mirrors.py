"""Mirrors: where the bytes of each space may come from, and in which order to ask."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jingxiang import tables
from jingxiang.errors import UnknownName
from jingxiang.language import tr
from jingxiang.tables import Table

AUTO = "auto"
OFFICIAL = "official"
# The origins: asked after every mirror, because from China they are the slowest.
ORIGINS = (OFFICIAL, "pytorch")

LAYOUTS = {"pypi": ("pep503",), "torch": ("pep503", "flat")}


@dataclass(frozen=True)
class Source:
    """One space of one mirror. `url` is empty for `official`: the client's own configuration."""

    mirror: str
    domain: str
    space: str
    layout: str
    url: str

    def address(self, build: str = "") -> str:
        return self.url.replace("{build}", build)


@dataclass(frozen=True)
class MirrorSet:
    """All mirrors, by name, in the order of the file."""

    sources: tuple[Source, ...]
    names: tuple[str, ...]

    def check(self, name: str) -> str:
        """The name itself, if it is `auto` or a mirror."""
        if name != AUTO and name not in self.names:
            raise UnknownName("mirror", name, [AUTO, *self.names], where="mirrors.toml")
        return name

    def offering(self, space: str) -> tuple[Source, ...]:
        return tuple(source for source in self.sources if source.space == space)

    def order(self, space: str, first: str, fastest: Iterable[str] = ()) -> tuple[Source, ...]:
        """The space's sources in the order to ask.

        The mirror `first` (unless `auto`), then the `fastest` as measured, then those of another failure domain than
        the one before, the origins last.
        """
        waiting = sorted(self.offering(space), key=lambda source: source.mirror in ORIGINS)
        ordered: list[Source] = []
        for name in [first, *fastest]:
            ordered += [source for source in waiting if source.mirror == name and source not in ordered]
        waiting = [source for source in waiting if source not in ordered]
        while waiting:
            origin = waiting[0].mirror in ORIGINS
            tried = {source.domain for source in ordered}
            fresh = [s for s in waiting if s.domain not in tried and (s.mirror in ORIGINS) == origin]
            chosen = (fresh or waiting)[0]
            waiting.remove(chosen)
            ordered.append(chosen)
        return tuple(ordered)


def load(root: Path) -> MirrorSet:
    """`mirrors.toml` of the checkout, with the user's own tables over it."""
    found: dict[str, tuple[Source, ...]] = {}
    for file, name in _files(root):
        for mirror, table in tables.read(file, name).tables().items():
            found[mirror] = tuple(_sources(mirror, table))
    return MirrorSet(tuple(source for group in found.values() for source in group), tuple(found))


def _files(root: Path) -> list[tuple[Path, str]]:
    files = [(root / "mirrors.toml", "mirrors.toml")]
    if own := os.environ.get("JINGXIANG_MIRRORS"):
        files.append((Path(own), "JINGXIANG_MIRRORS"))
    elif (local := root / "mirrors.local.toml").exists():
        files.append((local, local.name))
    return files


def _sources(mirror: str, table: Table) -> Iterable[Source]:
    table.only("domain", *LAYOUTS)
    domain = table.string("domain", mirror)
    if mirror == OFFICIAL:
        table.only("domain")
        yield from (Source(mirror, domain, space, layouts[0], "") for space, layouts in LAYOUTS.items())
        return
    for space, layouts in LAYOUTS.items():
        if space not in table.values:
            continue
        entry = table.table(space)
        entry.only("layout", "url")
        url = entry.string("url")
        if not url.startswith(("https://", "http://", "file://")):
            raise entry.error("url", tr("should begin with https://, http:// or file://"))
        yield Source(mirror, domain, space, entry.choice("layout", layouts), url)
