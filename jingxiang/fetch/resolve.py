"""From the packages of a lock to files: what the indexes list, and what of it fits a Python on this machine.

A lock names the hashes of all files of a version. Which of them is for this machine only a file's name says, and that
is in an index; so an index that is old, or lists other hashes, is just another mirror that has failed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from jingxiang import simple_index, vendored
from jingxiang.fetch.artifacts import TAIL, Artifact
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.indexes import Indexes
from jingxiang.fetch.report import Missed, Unavailable
from jingxiang.fetch.standings import Standing, Standings
from jingxiang.language import tr
from jingxiang.locks import LockedPackage
from jingxiang.simple_index import File

THREADS = 8
LISTS = 3  # that are read for a package, if the first ones lack files of the lock
DELAYS_S = (0.0, 1.0)  # before each round through the sources

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Target:
    """A Python on this machine: `tags` of the wheels that it can install, the best first."""

    python: str  # 3.11
    tags: tuple[str, ...]

    def rank(self, file: str) -> int | None:
        """How good a wheel is by its name, 0 the best; None if it does not fit, or is none."""
        utils = vendored.module("packaging.utils")
        try:
            *_, tags = utils.parse_wheel_filename(file)
        except utils.InvalidWheelFilename:
            return None
        names = {str(tag) for tag in tags}
        return next((place for place, tag in enumerate(self.tags) if tag in names), None)

    def wants(self, package: LockedPackage) -> bool:
        """Whether the package's marker holds there."""
        if not package.marker:
            return True
        environment = {"python_version": self.python, "python_full_version": f"{self.python}.0"}
        return bool(vendored.module("packaging.markers").Marker(package.marker).evaluate(environment))


def target(python: str) -> Target:
    """CPython of that version (`3.11`) on this machine."""
    tags = vendored.module("packaging.tags")
    major, minor = (int(part) for part in python.split("."))
    fitting = [
        *tags.cpython_tags((major, minor)),
        *tags.compatible_tags((major, minor), interpreter=f"cp{major}{minor}"),
    ]
    return Target(python, tuple(str(tag) for tag in fitting))


@dataclass
class _Found:
    """What the lists that were read say of one package."""

    files: dict[str, File] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)  # mirrors
    faults: dict[str, Fault] = field(default_factory=dict)
    complete: bool = False


class Resolver:
    """Chooses files; reads each list once."""

    def __init__(self, indexes: Indexes, standings: Standings, target: Target) -> None:
        self._indexes = indexes
        self._standings = standings
        self._target = target
        self._more = True  # whether more lists than one are worth a try: on a closed network each takes seconds

    def resolve(
        self, packages: Sequence[LockedPackage], show: Callable[[int], None] = lambda done: None
    ) -> tuple[Artifact, ...]:
        """The file of each package, in their order; `show` hears how many are found. Raises `Unavailable`."""
        found: list[Artifact] = []
        missed: list[Missed] = []
        for number, each in enumerate(_side_by_side(self._resolved, packages), 1):
            found += [each] if isinstance(each, Artifact) else []
            missed += [each] if isinstance(each, Missed) else []
            show(number)
        if missed:
            raise Unavailable(missed)
        return tuple(found)

    def _resolved(self, package: LockedPackage) -> Artifact | Missed:
        found = _Found()
        for delay_s in DELAYS_S:
            if delay_s:
                time.sleep(delay_s)
                self._standings.lift()
                found.faults = {mirror: fault for mirror, fault in found.faults.items() if not fault.kind.again}
            self._ask(package, found)
            if found.files:
                return self._chosen(package, found.files.values())
            if not any(fault.kind.again for fault in found.faults.values()):
                break
        order = [standing.mirror for standing in self._standings.of(package.space)]
        reasons = tuple((mirror, found.faults[mirror].text) for mirror in order if mirror in found.faults)
        return Missed(f"{package.name} {package.version}", reasons)

    def _ask(self, package: LockedPackage, found: _Found) -> None:
        """Read lists until one names a file that fits; and two more while they lack files of the lock, for the best may
        be among them. Those are no necessity: when one fails, nobody hears of it."""
        while not found.complete and len(found.read) < LISTS:
            needed = not found.read
            order = self._standings.order(package.space, found.faults)
            standing = next((each for each in order if each.mirror not in found.read), None)
            if standing is None or (not needed and (standing.down or not self._more)):
                return
            try:
                self._read(package, standing, found)
            except Fault as fault:
                if not needed:
                    self._more = self._more and fault.kind not in (Kind.UNREACHABLE, Kind.SILENT)
                    return
                found.faults[standing.mirror] = fault
                if fault is not standing.down:
                    self._standings.failed(standing, fault, package.name)
            else:
                self._standings.worked(standing)

    def _read(self, package: LockedPackage, standing: Standing, found: _Found) -> None:
        if standing.down:
            raise standing.down
        listed = self._indexes.files(standing.source, package.name, package.build)
        named = simple_index.of_version(listed, package)
        if not named:
            raise Fault(
                Kind.STALE, tr("stale: {name} {version} not there yet", name=package.name, version=package.version)
            )
        locked = [file for file in named if not file.sha256 or file.sha256 in package.hashes]
        if not locked:
            raise Fault(Kind.CORRUPT, tr("checksum differs in its index"))
        fitting = [file for file in locked if self._target.rank(file.name) is not None]
        if not fitting:
            text = tr("has no wheel for Python {python} on this machine", python=self._target.python)
            raise Fault(Kind.ABSENT, text)
        for file in fitting:
            if file.name not in found.files or (file.sha256 and not found.files[file.name].sha256):
                found.files[file.name] = file
        found.read.add(standing.mirror)
        said, names = {file.sha256 for file in locked}, {file.name for file in named}
        found.complete = (
            said >= set(package.hashes)
            or ("" in said and len(names) >= len(package.hashes))
            or standing.source.url.startswith("file://")  # a bundle: it holds what this machine needs
        )

    def _chosen(self, package: LockedPackage, files: Iterable[File]) -> Artifact:
        def cost(file: File) -> tuple[int, str]:
            rank = self._target.rank(file.name)
            assert rank is not None
            return rank, file.name

        best = min(files, key=cost)
        tail = TAIL.search(best.url)
        return Artifact(
            package.space, best.name, (best.sha256,) if best.sha256 else package.hashes, best.size_bytes,
            package.name, package.version, tail[0] if tail else "",
        )  # fmt: skip


def _side_by_side(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """What the work gives for each, in order. Ctrl-C ends it at once: nobody waits for those who wait for a server."""
    asked: queue.SimpleQueue[tuple[A, Future[B]]] = queue.SimpleQueue()
    futures: list[Future[B]] = []
    for item in items:
        futures.append(Future())
        asked.put((item, futures[-1]))

    def run() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                item, future = asked.get_nowait()
                try:
                    future.set_result(work(item))
                except BaseException as error:
                    future.set_exception(error)

    for _ in futures[:THREADS]:
        threading.Thread(target=run, daemon=True).start()
    try:
        for future in futures:
            yield future.result()
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                asked.get_nowait()
