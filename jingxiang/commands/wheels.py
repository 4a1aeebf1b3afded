"""The wheels of a lock for the installers: from the store, else through the mirrors into it. Standard library only."""

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
from jingxiang.fetch.resolve import Target
from jingxiang.fetch.session import Session
from jingxiang.language import tr
from jingxiang.locks import Lock, LockedPackage
from jingxiang.mirrors import MirrorSet, Source
from jingxiang.places import Places
from jingxiang.process import ProcessFailed
from jingxiang.progress import Bar
from jingxiang.store import Store
from jingxiang.wheels import Wheels

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
    """How much is to come: files, the bytes of those whose length is listed, and how many are not."""

    files: int = 0
    size_bytes: int = 0
    unknown: int = 0

    @classmethod
    def of(cls, store: Store, artifacts: Sequence[Artifact]) -> Need:
        missing = [each for each in artifacts if len(each.hashes) > 1 or not store.has(each.key)]
        sizes = [each.size_bytes for each in missing]
        return cls(len(missing), sum(size or 0 for size in sizes), sizes.count(None))


def install(
    places: Places,
    known: MirrorSet,
    lock: Lock,
    with_wheels: Callable[[Wheels], None],
    *,
    mirror: str,
    python: str,
    pip: Path,
    meanwhile: Meanwhile = nothing,
) -> int:
    """Have the wheels and install them. A file that was damaged on the disk is fetched again, once.

    Returns how many there are. For the other arguments, and what it raises, see `get`.
    """
    found = get(places, known, lock, mirror=mirror, python=python, pip=pip, meanwhile=meanwhile)
    try:
        with_wheels(found)
    except ProcessFailed:
        if not (damaged := found.discard_damaged()):
            raise
        console.more(tr("{count} damaged files were removed from the store, and are fetched again", count=damaged))
        with_wheels(get(places, known, lock, mirror=mirror, python=python, pip=pip))
    return len(found.digests)


def get(
    places: Places,
    known: MirrorSet,
    lock: Lock,
    *,
    mirror: str,
    python: str,
    pip: Path,
    meanwhile: Meanwhile = nothing,
) -> Wheels:
    """Those that Python `python` (`3.11`) needs on this machine. `pip`: the Python whose pip settings count;
    `meanwhile`: what to do with those that are here while others are still coming.

    Raises `Unavailable` when a file could be had from no mirror, `StoreFull`.
    """
    store, target = Store(places.store), resolve.target(python)
    packages = [package for package in lock.packages if target.wants(package)]
    if found := _had(store, packages, target):
        return found
    with _session(places, known, packages, mirror, pip) as session, Bar() as bar, ExitStack() as stack:

        def planned(artifacts: Sequence[Artifact]) -> None:
            _say(Need.of(store, artifacts), len(artifacts))
            stack.enter_context(_with_those_here(store, artifacts, stack.enter_context(meanwhile(store))))

        found, report = wheels.fetched(
            session, store, packages, target, listed=lambda done: bar.listed(done, len(packages)), planned=planned,
            show=bar,
        )  # fmt: skip
    first, *rest = report.lines() or [tr("all {count} files are in the store", count=len(packages))]
    console.line("fetch", first)
    for line in rest:
        console.more(line)
    return found


def look(places: Places, known: MirrorSet, lock: Lock, *, mirror: str, python: str, pip: Path) -> Need:
    """What `get` would fetch, found out from the mirrors' lists alone. Raises `Unavailable`."""
    store, target = Store(places.store), resolve.target(python)
    packages = [package for package in lock.packages if target.wants(package)]
    if _had(store, packages, target):
        return Need()
    with _session(places, known, packages, mirror, pip) as session, Bar() as bar:
        artifacts = session.resolve(packages, target, lambda done: bar.listed(done, len(packages)))
    need = Need.of(store, artifacts)
    _say(need, len(artifacts))
    return need


def _had(store: Store, packages: Sequence[LockedPackage], target: Target) -> Wheels | None:
    found = wheels.known(store, packages, target)
    if not found or not found.complete:
        return None
    console.line("fetch", tr("all {count} files are in the store", count=len(packages)))
    return found


def _session(places: Places, known: MirrorSet, packages: Sequence[LockedPackage], mirror: str, pip: Path) -> Session:
    """The mirrors in the order in which they are asked, which is shown."""
    settings = pip_client.settings(pip)
    spaces = sorted({package.space for package in packages})
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
    waiting = {artifact.name: artifact.key for artifact in artifacts if len(artifact.hashes) == 1}

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
    console.line("plan", text)
