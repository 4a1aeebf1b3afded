"""Which bytes of a file are here, who is fetching which of the others, and how that is shared out. Pure.

Ranges are half-open, as slices are: (0, 10) holds the bytes 0 to 9.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Range = tuple[int, int]


class Ranges:
    """A set of bytes, kept as disjoint ranges in order; neighbours are merged."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._ranges == other._ranges

    def __repr__(self) -> str:
        return f"Ranges({self._ranges})"

    @property
    def total(self) -> int:
        """How many bytes."""
        return sum(end - start for start, end in self._ranges)

    @property
    def prefix(self) -> int:
        """How many bytes there are from the beginning without a gap."""
        ranges = self._ranges  # of one moment: others may be writing
        return ranges[0][1] if ranges and ranges[0][0] == 0 else 0

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        first = bisect.bisect_left(self._ranges, start, key=lambda each: each[1])
        last = bisect.bisect_right(self._ranges, end, key=lambda each: each[0])
        if first < last:
            start, end = min(start, self._ranges[first][0]), max(end, self._ranges[last - 1][1])
        self._ranges[first:last] = [(start, end)]

    def remove(self, start: int, end: int) -> None:
        if start >= end:
            return
        kept: list[Range] = []
        for low, high in self._ranges:
            kept += [each for each in ((low, min(high, start)), (max(low, end), high)) if each[0] < each[1]]
        self._ranges = kept

    def gaps(self, end: int) -> Iterator[Range]:
        """What is missing of the bytes before `end`."""
        position = 0
        for low, high in self._ranges:
            if position < min(low, end):
                yield position, min(low, end)
            position = high
        if position < end:
            yield position, end


@dataclass(eq=False)
class Claim:
    """A range that one connection fetches from its beginning on.

    Everything before `written` is in the file, up to `granted` it is being written, and `end` is where the connection
    stops: None while nobody knows how long the file is.
    """

    start: int
    end: int | None
    written: int
    granted: int

    @property
    def remaining(self) -> int | None:
        """Bytes that it has still to be given."""
        return None if self.end is None else self.end - self.granted


class RangePlan:
    """One file: what is here, and the claims. No two claims overlap, and none holds a byte that is here."""

    def __init__(self, size: int | None, here: Iterable[Range] = ()) -> None:
        self.size = size
        self.here = Ranges(here)
        self.claims: list[Claim] = []

    @property
    def complete(self) -> bool:
        return self.size is not None and self.here.total == self.size

    def settle(self, size: int) -> None:
        """The file's length is known now. Raises ValueError if it is shorter than what is here."""
        if any(end > size for _, end in self.here) or any(claim.granted > size for claim in self.claims):
            raise ValueError(f"{size} bytes are fewer than there are already")
        self.size = size
        for claim in self.claims:
            claim.end = size if claim.end is None else min(claim.end, size)

    def gap(self) -> Range | None:
        """The first range that is not here and that nobody fetches; its end is that of the file."""
        if self.size is None:
            return None
        taken = Ranges(self.here)
        for claim in self.claims:
            taken.add(claim.written, self.size if claim.end is None else claim.end)
        return next(taken.gaps(self.size), None)

    def claim(self) -> Claim | None:
        """Take the first gap; of a file of unknown length all the rest, and nobody else gets a part of it."""
        if self.size is None:
            return None if self.claims else self._claimed(self.here.prefix, None)
        gap = self.gap()
        return self._claimed(*gap) if gap else None

    def split(self, victim: Claim, at: int) -> Claim:
        """Take over what a claim would fetch from `at` on; `at` lies between what it was granted and its end."""
        assert victim.end is not None
        if not victim.granted <= at < victim.end:
            raise ValueError(f"{at} is not in {victim}")
        end, victim.end = victim.end, at
        return self._claimed(at, end)

    def grant(self, claim: Claim, count: int) -> int:
        """How many of the next `count` bytes may be written: fewer than that where another claim has cut it short."""
        granted = count if claim.end is None else min(count, claim.end - claim.granted)
        claim.granted += granted
        return granted

    def wrote(self, claim: Claim) -> None:
        """What was granted is in the file."""
        self.here.add(claim.written, claim.granted)
        claim.written = claim.granted

    def release(self, claim: Claim) -> None:
        """A connection has ended; what it has not written is a gap."""
        self.claims.remove(claim)

    def forget(self, ranges: Iterable[Range]) -> None:
        """Those bytes are of no use, and have to come again."""
        for start, end in list(ranges):
            self.here.remove(start, end)

    def _claimed(self, start: int, end: int | None) -> Claim:
        claim = Claim(start, end, start, start)
        self.claims.append(claim)
        return claim
