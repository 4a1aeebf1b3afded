"""Mirrors: where the bytes of each space may come from, and in which order to ask."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jingxiang import tables
from jingxiang.errors import UnknownName, UsageError
from jingxiang.language import tr
from jingxiang.redaction import redact
from jingxiang.tables import Table

AUTO = "auto"
OFFICIAL = "official"
# The origins: asked after every mirror, because from China they are the slowest.
ORIGINS = (OFFICIAL, "pytorch")

FIELD = re.compile(r"\{(\w+)\}")
# Every space with the layouts that it may have.
LAYOUTS = {
    "pypi": ("pep503",),
    "torch": ("pep503", "flat"),
    "conda": ("conda",),
    "hub": ("hf", "modelscope"),
    "oci": ("oci", "oci-layout"),
    "apt": ("apt",),
}
# Where `official` is the client's own configuration, and so has no address.
CONFIGURED = ("pypi", "torch", "apt")
# What is filled into an address, and whether one without it could serve nothing but one part of the space.
FIELDS = {"torch": "build", "conda": "channel", "oci": "registry", "apt": "archive"}
NEEDED = ("conda", "apt")
# In which layout and where a bundle has the spaces; see `commands.bundle`.
BUNDLE = {
    "pypi": ("pep503", "pypi/simple"), "torch": ("pep503", "torch/{build}"), "conda": ("conda", "conda/{channel}"),
    "hub": ("hf", "hub"), "oci": ("oci-layout", "oci"),
}  # fmt: skip
# Keys of one space alone.
KEYS = {"pypi": ("files",), "hub": ("send_token", "ids")}


@dataclass(frozen=True)
class Source:
    """One space of one mirror. `url` is empty where `official` means the client's own configuration."""

    mirror: str
    domain: str
    space: str
    layout: str
    url: str
    files: str = ""  # pypi: the folder of the files, where they have the same paths as on other mirrors
    send_token: bool = False  # hub: whether it may see the user's token
    ids: tuple[tuple[str, str], ...] = ()  # hub: (repository, what it is called there)

    def address(self, build: str = "", *, channel: str = "", registry: str = "", archive: str = "") -> str:
        """The address with what it is asked for filled in."""
        fields = {"build": build, "channel": channel, "registry": registry, "archive": archive}
        return FIELD.sub(lambda match: fields.get(match[1], match[0]), self.url)

    def repository(self, name: str) -> str:
        """What a model's repository is called there."""
        return dict(self.ids).get(name, name)


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


def chosen(root: Path, name: str) -> MirrorSet:
    """`load`, with the mirror `name` checked. It may also be the address of a bundle, which is then one of the mirrors,
    called by its address."""
    known = load(root)
    if "://" not in name:
        known.check(name)
        return known
    scheme, _, rest = name.partition("://")
    if scheme not in ("https", "http", "file"):
        raise UsageError(tr("{url}: should begin with https://, http:// or file://", url=redact(name)))
    if "@" in rest.partition("/")[0]:
        text = tr("{url}: an address with a password belongs into mirrors.local.toml", url=redact(name))
        raise UsageError(text)
    root_url = name.rstrip("/")
    own = tuple(Source(name, name, space, layout, f"{root_url}/{path}") for space, (layout, path) in BUNDLE.items())
    return MirrorSet((*own, *known.sources), (name, *known.names))


def _files(root: Path) -> list[tuple[Path, str]]:
    files = [(root / "mirrors.toml", "mirrors.toml")]
    if own := os.environ.get("JINGXIANG_MIRRORS"):
        files.append((Path(own), "JINGXIANG_MIRRORS"))
    elif (local := root / "mirrors.local.toml").exists():
        files.append((local, local.name))
    return files


def _sources(mirror: str, table: Table) -> Iterable[Source]:
    own = CONFIGURED if mirror == OFFICIAL else ()
    table.only("domain", *(space for space in LAYOUTS if space not in own))
    domain = table.string("domain", mirror)
    for space, layouts in LAYOUTS.items():
        if space in own:
            yield Source(mirror, domain, space, layouts[0], "")
        elif space in table.values:
            yield _source(mirror, domain, space, table.table(space))


def _source(mirror: str, domain: str, space: str, entry: Table) -> Source:
    entry.only("layout", "url", *KEYS.get(space, ()))
    url = _address(entry, "url")
    known = FIELDS.get(space, "")
    for field in FIELD.findall(url):
        if field != known:
            only = tr(", only {allowed}", allowed=f"{{{known}}}") if known else ""
            raise entry.error("url", tr("'{field}' cannot be filled in", field=field) + only)
    if space in NEEDED and f"{{{known}}}" not in url:
        raise entry.error("url", tr("should hold {field}", field=f"{{{known}}}"))
    return Source(
        mirror, domain, space, entry.choice("layout", LAYOUTS[space]), url,
        files=_address(entry, "files") if "files" in entry.values else "",
        send_token=entry.boolean("send_token", default=False),
        ids=_ids(entry.table("ids")) if "ids" in entry.values else (),
    )  # fmt: skip


def _address(entry: Table, key: str) -> str:
    url = entry.string(key)
    if not url.startswith(("https://", "http://", "file://")):
        raise entry.error(key, tr("should begin with https://, http:// or file://"))
    return url


def _ids(table: Table) -> tuple[tuple[str, str], ...]:
    return tuple((name, table.string(name)) for name in table.values)
