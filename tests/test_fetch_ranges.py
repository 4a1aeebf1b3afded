"""jingxiang.fetch.ranges, against a plain model: one state per byte"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)  # fmt: skip

from jingxiang.fetch.ranges import Claim, Range, RangePlan, Ranges

SIZE = 40
ranges = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: (min(pair), max(pair)))


def members(found: Ranges) -> set[int]:
    return {byte for start, end in found for byte in range(start, end)}


@given(st.lists(st.tuples(st.booleans(), ranges)))
def test_ranges_hold_what_was_added_and_not_removed(steps: list[tuple[bool, Range]]) -> None:
    found, model = Ranges(), set[int]()
    for adding, (start, end) in steps:
        (found.add if adding else found.remove)(start, end)
        model = model | set(range(start, end)) if adding else model - set(range(start, end))
        assert members(found) == model
        assert found.total == len(model)
        assert found.prefix == next(byte for byte in range(SIZE + 1) if byte not in model)
        pairs = list(found)
        # Disjoint, in order, and no two neighbours touch.
        assert all(start < end for start, end in pairs)
        assert all(before[1] < after[0] for before, after in pairwise(pairs))


@given(st.lists(ranges), st.integers(0, SIZE))
def test_gaps_are_what_is_missing(held: list[Range], end: int) -> None:
    found = Ranges(held)
    gaps = list(found.gaps(end))
    assert {byte for low, high in gaps for byte in range(low, high)} == set(range(end)) - members(found)
    assert all(before[1] < after[0] for before, after in pairwise(gaps))


class Planning(RuleBasedStateMachine):
    """Connections that come, write, split each other, and go at any moment, in a file of known length.

    The model: who has each byte - nobody, a claim, or the disk.
    """

    plan: RangePlan

    @initialize(size=st.integers(0, SIZE), here=st.lists(ranges, max_size=3))
    def begin(self, size: int, here: list[Range]) -> None:
        self.plan = RangePlan(size, [(start, min(end, size)) for start, end in here])
        self.written = members(self.plan.here)

    def claims(self) -> list[Claim]:
        return self.plan.claims

    @rule()
    def claim(self) -> None:
        taken = {byte for each in self.claims() for byte in range(each.written, each.end or 0)}
        free = set(range(self.plan.size or 0)) - self.written - taken
        claim = self.plan.claim()
        if claim is None:
            assert not free
            return
        assert claim.end is not None
        assert set(range(claim.start, claim.end)) <= free
        assert claim.start == min(free)

    @precondition(lambda self: self.plan.claims)
    @rule(data=st.data(), count=st.integers(0, 12))
    def write(self, data: st.DataObject, count: int) -> None:
        claim = data.draw(st.sampled_from(self.claims()))
        assert claim.end is not None
        granted = self.plan.grant(claim, count)
        assert granted == min(count, claim.end - claim.written)
        new = set(range(claim.written, claim.granted))
        assert not new & self.written
        self.plan.wrote(claim)
        self.written |= new

    @precondition(lambda self: self.plan.claims)
    @rule(data=st.data(), count=st.integers(0, 12))
    def break_off_while_writing(self, data: st.DataObject, count: int) -> None:
        claim = data.draw(st.sampled_from(self.claims()))
        self.plan.grant(claim, count)
        self.plan.release(claim)

    @precondition(lambda self: self.plan.claims)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.plan.release(data.draw(st.sampled_from(self.claims())))

    @precondition(lambda self: any(each.remaining for each in self.plan.claims))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        victim = data.draw(st.sampled_from([each for each in self.claims() if each.remaining]))
        assert victim.end is not None
        end, at = victim.end, data.draw(st.integers(victim.granted, victim.end - 1))
        claim = self.plan.split(victim, at)
        assert (victim.end, claim.start, claim.written, claim.end) == (at, at, at, end)

    @rule(forgotten=ranges)
    def forget(self, forgotten: Range) -> None:
        taken = {byte for each in self.claims() for byte in range(each.start, each.granted)}
        if taken & set(range(*forgotten)):  # nobody forgets what is being written
            return
        self.plan.forget([forgotten])
        self.written -= set(range(*forgotten))

    @invariant()
    def nothing_is_lost_and_nothing_is_fetched_twice(self) -> None:
        if not hasattr(self, "plan"):
            return
        assert members(self.plan.here) == self.written
        taken: set[int] = set()
        for claim in self.claims():
            assert claim.end is not None
            assert claim.start <= claim.written <= claim.granted <= claim.end
            own = set(range(claim.written, claim.end))
            assert not own & taken
            assert not own & self.written
            taken |= own
        gap = self.plan.gap()
        rest = set(range(self.plan.size or 0)) - self.written - taken
        assert (set(range(*gap)) <= rest and min(rest) == gap[0]) if gap else not rest
        assert self.plan.complete == (len(self.written) == self.plan.size)


def test_whatever_connections_do_every_byte_is_fetched_once() -> None:
    run_state_machine_as_test(Planning, settings=settings(max_examples=150, stateful_step_count=40))


def test_of_a_file_of_unknown_length_one_connection_gets_all() -> None:
    plan = RangePlan(None)
    claim = plan.claim()
    assert claim is not None
    assert (claim.start, claim.end, claim.remaining) == (0, None, None)
    assert (plan.claim(), plan.gap(), plan.complete) == (None, None, False)
    assert plan.grant(claim, 7) == 7
    plan.wrote(claim)
    plan.settle(10)
    assert (claim.end, claim.remaining, plan.grant(claim, 7)) == (10, 3, 3)
    plan.wrote(claim)
    assert plan.complete


def test_a_length_that_is_less_than_what_is_there_is_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes are fewer than there are already"):
        RangePlan(None, [(0, 5)]).settle(4)


@pytest.mark.parametrize("at", [4, 10, 11])
def test_a_claim_is_divided_between_what_it_was_granted_and_its_end(at: int) -> None:
    plan = RangePlan(10)
    claim = plan.claim()
    assert claim is not None
    plan.grant(claim, 5)
    with pytest.raises(ValueError, match="is not in"):
        plan.split(claim, at)
