"""What a lock names, for the installers: from the store, else through the mirrors into it. Standard library only."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from jingxiang import console, ordering, pip_client, samples, wheels
from jingxiang.errors import JingxiangError
from jingxiang.fetch import resolve
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.report import Report
from jingxiang.fetch.resolve import Target
from jingxiang.fetch.session import Session
from jingxiang.language import tr
from jingxiang.locks import Lock, LockedPackage
from jingxiang.mirrors import MirrorSet, Source
from jingxiang.places import Places
from jingxiang.process import ProcessFailed
from jingxiang.progress import Bar
from jingxiang.store import Damaged, Store
from jingxiang.wheels import Wheels

PYTHON = ("pypi", "torch")  # the spaces of wheels
# What wheels grow to: libraries of CUDA hardly, all else as Python does. Over the locks of this repository within 5 %.
GROWTH, GROWTH_OF_LARGE, LARGE_BYTES = 4.4, 1.6, 200_000_000
NAMED = 4  # mirrors that the line about their order names
LOOK_S = 0.2  # how often to look which files have come


# Makes, for a store, what to do with wheels that are here already.
Meanwhile = Callable[[Store], contextlib.AbstractContextManager[Callable[[Wheels], None]]]


@contextlib.contextmanager
def nothing(store: Store) -> Iterator[Callable[[Wheels], None]]:
    """What to do while files are coming: wait."""
    yield lambda wheels: None


@dataclass(frozen=True)
class Need:
    """How much is to come: files, the bytes of those whose length is listed, and how many are not; the bytes of those
    that are here; and about how much all of them take when installed."""

    files: int = 0
    size_bytes: int = 0
    unknown: int = 0
    here_bytes: int = 0
    installed_bytes: int = 0

    @classmethod
    def of(cls, store: Store, artifacts: Sequence[Artifact]) -> Need:
        here = {each.name: each.key for each in artifacts if len(each.hashes) == 1 and store.has(each.key)}
        sizes = {each.name: each.size_bytes for each in artifacts if each.name not in here}
        known = {name: size for name, size in sizes.items() if size is not None}
        nothing_missing = cls.here(store, here)
        installed = nothing_missing.installed_bytes + sum(map(_installed, known, known.values()))
        return cls(len(sizes), sum(known.values()), len(sizes) - len(known), nothing_missing.here_bytes, installed)

    @classmethod
    def here(cls, store: Store, digests: Mapping[str, str]) -> Need:
        """Of files that are all in the store."""
        sizes = {name: store.blob(sha256).stat().st_size for name, sha256 in digests.items()}
        return cls(here_bytes=sum(sizes.values()), installed_bytes=sum(map(_installed, sizes, sizes.values())))


def _installed(name: str, size_bytes: int) -> int:
    """About how much room a wheel takes when it is unpacked and compiled: measured, there is no list that says it."""
    large = size_bytes > LARGE_BYTES or name.startswith("nvidia")
    return int(size_bytes * (GROWTH_OF_LARGE if large else GROWTH))


@dataclass(frozen=True)
class Wanted:
    """The packages of a lock that Python `python` (`3.11`) needs on this machine, and what else is to be in the store
    with them (`also`). `pip`: the Python whose pip settings count."""

    lock: Lock
    python: str
    pip: Path
    also: Sequence[Artifact] = ()

    @property
    def target(self) -> Target:
        return resolve.target(self.python)

    @property
    def packages(self) -> list[LockedPackage]:
        target = self.target
        return [package for package in self.lock.packages if target.wants(package)]

    @property
    def count(self) -> int:
        return len(self.packages) + len(self.also)

    def digests(self, found: Wheels) -> dict[str, str]:
        """All files by name, those beside the wheels too."""
        return {**found.digests, **{each.name: each.key for each in self.also}}


def install(
    places: Places,
    known: MirrorSet,
    wanted: Wanted,
    with_wheels: Callable[[Wheels], None],
    *,
    mirror: str,
    meanwhile: Meanwhile = nothing,
    planned: Callable[[Need], None] = lambda need: None,
) -> int:
    """Have the wheels and install them. A file that was damaged on the disk is fetched again, once.

    Returns how many there are. For `meanwhile` and `planned`, and what it raises, see `get`.
    """
    found = get(places, known, wanted, mirror=mirror, meanwhile=meanwhile, planned=planned)
    try:
        with_wheels(found)
    except (ProcessFailed, Damaged) as error:
        damaged = Wheels(found.store, wanted.digests(found)).discard_damaged() + isinstance(error, Damaged)
        if not damaged:
            raise
        console.more(tr("{count} damaged files are in quarantine now, and are fetched again", count=damaged))
        with_wheels(get(places, known, wanted, mirror=mirror))
    return len(found.digests)


def get(
    places: Places,
    known: MirrorSet,
    wanted: Wanted,
    *,
    mirror: str,
    meanwhile: Meanwhile = nothing,
    planned: Callable[[Need], None] = lambda need: None,
) -> Wheels:
    """The wheels, all in the store then. `meanwhile`: what to do with those that are here while others are still
    coming; `planned`: is told what is needed before anything comes.

    Raises `Unavailable` when a file could be had from no mirror, `StoreFull`.
    """
    store, packages = Store(places.store), wanted.packages
    if found := _had(store, wanted):
        planned(Need.here(store, wanted.digests(found)))
        return found
    with _session(places, known, packages, wanted.also, mirror, wanted.pip) as session, ExitStack() as stack:
        bar = stack.enter_context(Bar())

        def found_out(artifacts: Sequence[Artifact]) -> None:
            need = Need.of(store, artifacts)
            _say(need, len(artifacts))
            planned(need)
            stack.enter_context(_with_those_here(store, artifacts, stack.enter_context(meanwhile(store))))

        found, report = wheels.fetched(
            session, store, packages, wanted.target, also=wanted.also, planned=found_out, show=bar,
            listed=lambda done: bar.listed(done, len(packages)),
        )  # fmt: skip
    _told(report, wanted.count)
    return found


def look(places: Places, known: MirrorSet, wanted: Wanted, *, mirror: str) -> Need:
    """What `get` would fetch, found out from the mirrors' lists alone. Raises `Unavailable`."""
    store, packages = Store(places.store), wanted.packages
    if found := _had(store, wanted):
        return Need.here(store, wanted.digests(found))
    with _session(places, known, packages, wanted.also, mirror, wanted.pip) as session, Bar() as bar:
        listed = session.resolve(packages, wanted.target, lambda done: bar.listed(done, len(packages)))
    artifacts = [*listed, *wanted.also]
    need = Need.of(store, artifacts)
    _say(need, len(artifacts))
    return need


def fetch(places: Places, known: MirrorSet, wanted: Sequence[Artifact], *, mirror: str, pip: Path) -> None:
    """Files that a lock names one by one. Raises `Unavailable`, `StoreFull`."""
    store = Store(places.store)
    if all(store.has(each.key) for each in wanted):
        return
    with _session(places, known, (), wanted, mirror, pip) as session, Bar() as bar:
        report = session.fetch(wanted, bar)
    _told(report, len(wanted))


def _told(report: Report, count: int) -> None:
    first, *rest = report.lines() or [tr("all {count} files are in the store", count=count)]
    console.line("fetch", first)
    for line in rest:
        console.more(line)


def _had(store: Store, wanted: Wanted) -> Wheels | None:
    found = wheels.known(store, wanted.packages, wanted.target)
    if not found or not found.complete or not all(store.has(each.key) for each in wanted.also):
        return None
    console.line("fetch", tr("all {count} files are in the store", count=wanted.count))
    return found


def _session(
    places: Places,
    known: MirrorSet,
    packages: Sequence[LockedPackage],
    also: Sequence[Artifact],
    mirror: str,
    pip: Path,
) -> Session:
    """The mirrors in the order in which they are asked, which is shown."""
    settings = pip_client.settings(pip)
    spaces = sorted({package.space for package in packages} | {artifact.space for artifact in also})
    wanted = samples.wanted(packages, settings["index-url"])
    orders = ordering.orders(known, mirror, spaces, home=places.home, wanted=wanted, settings=settings)
    console.line("mirrors", _order(orders))
    return Session(Store(places.store), orders, settings)


@contextlib.contextmanager
def _with_those_here(store: Store, artifacts: Sequence[Artifact], use: Callable[[Wheels], None]) -> Iterator[None]:
    """In a thread of its own, `use` files as soon as they are in the store, some at a time. It only saves time later:
    if it fails, the same is done again afterwards, and fails then.
    """
    over = threading.Event()
    waiting = {each.name: each.key for each in artifacts if len(each.hashes) == 1 and each.space in PYTHON}

    def watch() -> None:
        while waiting and not over.wait(LOOK_S):
            if here := {name: sha256 for name, sha256 in waiting.items() if store.has(sha256)}:
                with contextlib.suppress(JingxiangError, OSError):
                    use(Wheels(store, here))
                for name in here:
                    del waiting[name]

    thread = threading.Thread(target=watch, name="meanwhile")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _order(orders: Mapping[str, Sequence[Source]]) -> str:
    """`pypi tuna, aliyun, nju, …`"""
    parts = []
    for space, sources in orders.items():
        names = [source.mirror for source in sources]
        parts.append(f"{space} {', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''}")
    return " · ".join(parts)


def _say(need: Need, count: int) -> None:
    text = tr("{count} of {all} files to fetch", count=need.files, all=count)
    if need.size_bytes:
        text += f", {console.size(need.size_bytes)}"
    if need.unknown:
        text += tr(" (how long {count} of them are is not listed)", count=need.unknown)
    if need.here_bytes:
        text += tr("; {size} in the store", size=console.size(need.here_bytes))
    console.line("plan", text)
