"""How each source does in this run, and whom to ask next."""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.mirrors import ORIGINS, Source

# After so many failures in a row, and nothing good in between, a source is not asked again: no retry storm.
PATIENCE = {
    Kind.UNREACHABLE: 1,
    Kind.SILENT: 2,
    Kind.BLOCKED: 3,
    Kind.BUSY: 3,
    Kind.BROKEN: 3,
    Kind.PAGE: 3,
    Kind.LOOP: 3,
}
PROVEN = 3  # the least for one that has brought something
# A source is slow if a connection to it brings less than this part of what the best one's brings.
SLOW = 0.1
KNOWN_S, KNOWN_BYTES = 2.0, 1 << 20  # what it takes to know


@dataclass(eq=False)
class Standing:
    """One source. `rank`: its place in the order that was asked for; `down`: why it is not asked any more."""

    source: Source
    rank: int
    weight: float = 0.0
    down: Fault | None = None
    ready_at: float = 0.0  # monotonic; when it has said that it wants to be left alone until then
    ranged: bool = True  # whether it sends parts of files
    size_bytes: int = 0
    flows: set[Flow] = field(default_factory=set)  # of its connections that are open now
    _waited_s: float = 0.0
    files: set[str] = field(default_factory=set)
    failures: dict[Kind, set[str]] = field(default_factory=dict)  # the files for which it failed
    reasons: dict[Kind, str] = field(default_factory=dict)  # what it said last, by kind
    _in_a_row: int = 0

    @property
    def mirror(self) -> str:
        return self.source.mirror

    @property
    def host(self) -> str:
        """Of its address; empty where that is the client's own configuration, and for folders."""
        return urllib.parse.urlsplit(self.source.url).netloc.rpartition("@")[2]

    @property
    def folder(self) -> bool:
        """Whether it is on a disk of this machine: a bundle."""
        return self.source.url.startswith("file://")

    @property
    def origin(self) -> bool:
        return self.mirror in ORIGINS

    @property
    def speed(self) -> float | None:
        """Bytes per second of one connection; None before it is known."""
        waited_s = self._waited_s + sum(flow.waited_s for flow in self.flows)
        if waited_s < KNOWN_S and self.size_bytes < KNOWN_BYTES:
            return None
        return self.size_bytes / max(waited_s, 0.001)

    def open(self, flow: Flow) -> None:
        self.flows.add(flow)

    def close(self, flow: Flow) -> None:
        self.flows.remove(flow)
        self._waited_s += flow.waited_s

    def slow(self, best: float) -> bool:
        """Whether it would not help beside one of that speed."""
        return self.speed is not None and self.speed < SLOW * best


class Standings:
    """The sources of every space, by the order in which they should be asked."""

    def __init__(self, orders: Mapping[str, Sequence[Source]]) -> None:
        self._of_space = {
            space: tuple(Standing(source, rank) for rank, source in enumerate(order)) for space, order in orders.items()
        }
        self._lock = threading.Lock()

    def all(self) -> Iterable[Standing]:
        return (standing for group in self._of_space.values() for standing in group)

    def of(self, space: str) -> tuple[Standing, ...]:
        return self._of_space.get(space, ())

    def order(self, space: str, failed: Iterable[str] = ()) -> list[Standing]:
        """Those to ask, best first: of a failure domain in which none has `failed`, without failures, not slow."""
        group, names, best = self.of(space), set(failed), self.best_speed(space)
        domains = {standing.source.domain for standing in group if standing.mirror in names}

        def cost(standing: Standing) -> tuple[bool, int, bool, int]:
            return (standing.source.domain in domains, int(standing.weight), standing.slow(best), standing.rank)

        return sorted((standing for standing in group if standing.mirror not in names), key=cost)

    def best_speed(self, space: str) -> float:
        return max((standing.speed or 0.0 for standing in self.of(space)), default=0.0)

    def worked(self, standing: Standing) -> None:
        with self._lock:
            standing._in_a_row = 0

    def failed(self, standing: Standing, fault: Fault, file: str) -> None:
        """Count a failure, and give the source up if that is one too many."""
        with self._lock:
            standing.failures.setdefault(fault.kind, set()).add(file)
            standing.reasons[fault.kind] = fault.text
            standing.weight += fault.kind.weight
            standing._in_a_row += 1
            if fault.wait_s:
                standing.ready_at = max(standing.ready_at, time.monotonic() + fault.wait_s)
            patience = PATIENCE.get(fault.kind)
            if patience and standing._in_a_row >= (max(patience, PROVEN) if standing.size_bytes else patience):
                standing.down = standing.down or fault

    def lift(self) -> None:
        """Give those another chance that may have come back."""
        with self._lock:
            for standing in self.all():
                if standing.down and standing.down.kind.again:
                    standing.down, standing._in_a_row = None, 0
