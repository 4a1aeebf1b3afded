"""app.brake"""

from __future__ import annotations

import pytest

from app import brake
from app.brake import Brake


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def guess(on: Brake, name: str, address: str, times: int = 1) -> None:
    for _ in range(times):
        on.note(name, address, is_right=False)


def test_the_fifth_wrong_password_holds_up_the_sixth_and_each_one_longer(clock: Clock) -> None:
    held = Brake(clock)
    guess(held, "li", "10.0.0.1", 4)
    assert held.wait_s("li", "10.0.0.1") == 0
    waits = []
    for _ in range(9):
        guess(held, "li", "10.0.0.1")
        waits.append(held.wait_s("li", "10.0.0.1"))
        clock.now += waits[-1]
        assert held.wait_s("li", "10.0.0.1") == 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_others_are_not_held_up_by_it(clock: Clock) -> None:
    held = Brake(clock)
    guess(held, "li", "10.0.0.1", 15)
    assert held.wait_s("li", "10.0.0.1") == 60
    assert held.wait_s("li", "10.0.0.2") == 0
    assert held.wait_s("wang", "10.0.0.1") == 0


def test_an_address_has_twenty_for_all_names(clock: Clock) -> None:
    held = Brake(clock)
    for number in range(19):
        guess(held, f"name{number}", "10.0.0.1")
    assert held.wait_s("li", "10.0.0.1") == held.wait_s("", "10.0.0.1") == 0
    guess(held, "", "10.0.0.1")
    assert held.wait_s("li", "10.0.0.1") == held.wait_s("", "10.0.0.1") == 1
    assert held.wait_s("li", "10.0.0.2") == 0


def test_a_name_that_is_guessed_at_from_everywhere_is_held_up_but_for_where_it_came_from(clock: Clock) -> None:
    held = Brake(clock)
    held.note("li", "10.1.0.1", is_right=True)
    for number in range(100):
        assert held.wait_s("li", "10.2.0.1") == 0
        guess(held, "li", f"10.0.0.{number}")
    assert held.wait_s("li", "10.2.0.1") == 1
    assert held.wait_s("li", "10.1.0.1") == held.wait_s("wang", "10.2.0.1") == 0
    guess(held, "li", "10.1.0.1", 5)  # not for ever, though
    assert held.wait_s("li", "10.1.0.1") == 1


def test_the_right_password_in_between_does_not_make_guessing_free(clock: Clock) -> None:
    held = Brake(clock)
    guess(held, "li", "10.0.0.1", 4)
    held.note("li", "10.0.0.1", is_right=True)
    guess(held, "li", "10.0.0.1")
    assert held.wait_s("li", "10.0.0.1") == 1


def test_after_five_quiet_minutes_all_is_forgotten(clock: Clock) -> None:
    held = Brake(clock)
    guess(held, "li", "10.0.0.1", 4)
    clock.now += 299
    guess(held, "li", "10.0.0.1")
    assert held.wait_s("li", "10.0.0.1") == 1
    clock.now += 300
    guess(held, "li", "10.0.0.1", 4)
    assert held.wait_s("li", "10.0.0.1") == 0


def test_a_machine_has_one_address_of_ipv6(clock: Clock) -> None:
    held = Brake(clock)
    for number in range(5):
        guess(held, "li", f"2001:db8:1:2::{number:x}")
    assert held.wait_s("li", "2001:db8:1:2:ffff::1") == 1
    assert held.wait_s("li", "2001:db8:1:3::1") == 0
    guess(held, "li", "::ffff:10.0.0.1", 5)
    assert held.wait_s("li", "10.0.0.1") == held.wait_s("li", "::ffff:10.0.0.1") == 1
    assert held.wait_s("li", "::ffff:10.0.0.2") == 0


def test_what_is_kept_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brake, "MOST_KEPT", 30)
    held = Brake(clock)
    guess(held, "li" * 1000, "10.0.0.1", 5)
    for number in range(100):
        guess(held, f"name{number}", f"10.1.0.{number}")
        held.note(f"name{number}", f"10.1.0.{number}", is_right=True)
    assert len(held._wrong) == len(held._known) == 30
    assert held.wait_s("li" * 1000, "10.0.0.1") == 0
    assert all(len(name or "") <= 64 for name, _ in held._wrong)
