"""A brake on guessing passwords.

Wrong passwords are counted in this process alone, as long as less than `FORGET_S` pass from one to the next: those for
one name from one address, those from one address, and those for one name from anywhere. From each limit on, the next
try has to wait, twice as long each time, up to `MOST_S`; tries before that are not even looked at, nor counted.

Somebody who guesses shall not lock out whom the name belongs to, so that
- few wrong passwords hold up only the address that they came from, and the many that it takes to hold up a name
  everywhere do not hold up addresses that the right password came from before;
- the right password takes nothing from what was counted, or else guessing would be free beside a program that is busy;
- who has logged in on the page is not asked here at all (see `app.sessions`).
People behind one proxy share its address, and thus its limit, unless FORWARDED_ALLOW_IPS names the proxy.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

OF_BOTH, OF_ADDRESS, OF_NAME = 5, 20, 100  # wrong passwords from which on there is a wait
FORGET_S = 300.0
MOST_S = 60.0
MOST_KEPT = 10_000  # of either kind; what was not touched for the longest goes
MOST_LETTERS = 64  # of a name: longer ones with the same beginning are counted together

Key = tuple[str | None, str | None]  # name and address; None: any


@dataclass(frozen=True)
class _Wrong:
    count: int
    last: float


class Brake:
    """`clock`: seconds. The name is empty where a password is sent alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[Key, _Wrong] = OrderedDict()
        self._known: OrderedDict[Key, None] = OrderedDict()

    def wait_s(self, name: str, address: str) -> float:
        """How long a password for that name from that address has to wait; 0: it may be looked at."""
        name, address = name[:MOST_LETTERS], _network(address)
        now = self._clock()
        return max(0.0, *(self._free(key, limit) - now for key, limit in self._limits(name, address)))

    def note(self, name: str, address: str, *, is_right: bool) -> None:
        """A password that was looked at."""
        key = name[:MOST_LETTERS], _network(address)
        if is_right:
            self._known[key] = None
            self._known.move_to_end(key)
            if len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
            return
        for counted in (key, (None, key[1]), (key[0], None)):
            self._wrong[counted] = _Wrong(self._counted(counted) + 1, self._clock())
            self._wrong.move_to_end(counted)
            if len(self._wrong) > MOST_KEPT:
                self._wrong.popitem(last=False)

    def _limits(self, name: str, address: str) -> Iterator[tuple[Key, int]]:
        yield (name, address), OF_BOTH
        yield (None, address), OF_ADDRESS
        if (name, address) not in self._known:
            yield (name, None), OF_NAME

    def _counted(self, key: Key) -> int:
        wrong = self._wrong.get(key)
        return wrong.count if wrong is not None and self._clock() - wrong.last < FORGET_S else 0

    def _free(self, key: Key, limit: int) -> float:
        """From when on another try is looked at."""
        count = self._counted(key)
        if count < limit:
            return -math.inf
        return self._wrong[key].last + min(MOST_S, 2.0 ** min(count - limit, 10))


def _network(address: str) -> str:
    """What one machine may choose its addresses from: of IPv6, 64 bits."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # of a socket that has none
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return address
