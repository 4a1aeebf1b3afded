"""jingxiang.fetch.sockets, against sockets that answer, refuse, and say nothing"""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from jingxiang.fetch import sockets
from jingxiang.fetch.sockets import HEAD_START_S
from tests.peers.system import free_port, require

V4, V6 = socket.AF_INET, socket.AF_INET6
NAME = "mirror.example"
MANY = 16  # so many head starts would be noticed on the slowest machine
Addresses = list[tuple[socket.AddressFamily, tuple[object, ...]]]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the name server answers for `NAME`: a real one would have to be that of the whole machine."""
    real = socket.getaddrinfo
    answers: Addresses = []

    def look_up(host: str, port: int, *args: Any, **named: Any) -> list[Any]:
        if host != NAME:
            return real(host, port, *args, **named)
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in answers]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return lambda *addresses: answers.extend(addresses)


@contextlib.contextmanager
def listening(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that takes connections."""
    family = V6 if ":" in host else V4
    require(family == V4 or _has_v6(), "no IPv6 on the loopback interface")
    with socket.create_server((host, port), family=family) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def silent(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port whose queue is full: whoever connects hears nothing, as from behind a firewall that drops."""
    with socket.create_server((host, port), backlog=0) as server, ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def _has_v6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=V6):
            return True
    except OSError:
        return False


def reached(host: str, port: int, timeout_s: float = 3.0) -> tuple[str, float]:
    """The address that a connection was made to, and the seconds that it took."""
    start = time.monotonic()
    with sockets.connect(host, port, timeout_s) as opened:
        assert opened.gettimeout() is None
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        return opened.getpeername()[0], time.monotonic() - start


def refused(host: str, port: int, timeout_s: float = 3.0) -> tuple[OSError, float]:
    start = time.monotonic()
    try:
        sockets.connect(host, port, timeout_s).close()
    except OSError as error:
        return error, time.monotonic() - start
    pytest.fail("connected")


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_an_address_or_a_name_is_connected_to(host: str) -> None:
    with listening("::1" if host == "::1" else "127.0.0.1") as port:
        assert reached(host, port)[0] == ("::1" if host == "::1" else "127.0.0.1")


@pytest.mark.parametrize("first", [V6, V4], ids=["IPv6 first", "IPv4 first"])
def test_the_family_that_the_system_prefers_is_taken_if_both_answer(
    named: Callable[..., None], first: socket.AddressFamily
) -> None:
    with listening() as port, listening("::1", port):
        both: Addresses = [(V6, ("::1", port, 0, 0)), (V4, ("127.0.0.1", port))]
        named(*(both if first == V6 else reversed(both)))
        assert reached(NAME, port)[0] == ("::1" if first == V6 else "127.0.0.1")


def test_a_refusal_over_ipv6_costs_nothing_where_ipv4_works(named: Callable[..., None]) -> None:
    with listening() as port:
        named(*[(V6, ("::1", port, 0, 0))] * MANY, (V4, ("127.0.0.2", port)), (V4, ("127.0.0.1", port)))
        address, seconds = reached(NAME, port)
    assert address == "127.0.0.1"
    assert seconds < MANY * HEAD_START_S / 2


def test_a_family_that_this_machine_does_not_have_is_passed_over(named: Callable[..., None]) -> None:
    with listening() as port:
        # Multicast: no connection can be begun.
        named((V6, ("ff02::1", port, 0, 0)), *[(V4, ("224.0.0.1", port))] * MANY, (V4, ("127.0.0.1", port)))
        address, seconds = reached(NAME, port)
    assert address == "127.0.0.1"
    assert seconds < MANY * HEAD_START_S / 2


def test_families_take_turns_beginning_with_the_systems_first() -> None:
    six: Addresses = [(V6, ("a",)), (V6, ("b",)), (V6, ("c",))]
    four: Addresses = [(V4, ("d",)), (V4, ("e",))]
    ordered = [six[0], four[0], six[1], four[1], six[2]]
    assert sockets._alternating([*six, *four]) == ordered
    assert sockets._alternating([six[0], *four, *six[1:]]) == ordered
    assert sockets._alternating([*four, *six])[:2] == [four[0], six[0]]
    assert sockets._alternating([]) == []


def test_a_silent_address_holds_the_next_one_up_for_a_moment_only(named: Callable[..., None]) -> None:
    with silent("127.0.0.2") as port, listening("127.0.0.1", port):
        named((V4, ("127.0.0.2", port)), (V4, ("127.0.0.1", port)))
        address, seconds = reached(NAME, port)
    assert address == "127.0.0.1"
    assert HEAD_START_S <= seconds < 2.5


def test_a_refusal_ends_the_wait_for_a_silent_address(named: Callable[..., None]) -> None:
    with silent("127.0.0.2") as port, listening("127.0.0.1", port):
        named((V4, ("127.0.0.2", port)), *[(V4, ("127.0.0.3", port))] * MANY, (V4, ("127.0.0.1", port)))
        address, seconds = reached(NAME, port, 9)
    assert address == "127.0.0.1"
    assert HEAD_START_S <= seconds < MANY * HEAD_START_S / 2


def test_a_silent_address_may_still_answer_while_others_are_tried(named: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.2", 0), backlog=0) as late, ExitStack() as stack:
        port = late.getsockname()[1]
        filler = stack.enter_context(socket.create_connection(("127.0.0.2", port)))
        stack.enter_context(silent("127.0.0.3", port))
        named((V4, ("127.0.0.2", port)), (V4, ("127.0.0.3", port)))

        def take() -> None:
            late.accept()[0].close()

        timer = threading.Timer(0.5, take)
        timer.start()
        assert reached(NAME, port, 8.0)[0] == "127.0.0.2"
        timer.join()
        filler.close()


@pytest.mark.parametrize("count", [1, 3])
def test_time_is_limited_over_all_addresses_together(named: Callable[..., None], count: int) -> None:
    with silent() as port:
        named(*[(V4, ("127.0.0.1", port))] * count)
        error, seconds = refused(NAME, port, 0.6)
    assert (type(error), str(error)) == (TimeoutError, "timed out")
    assert 0.6 <= seconds < 0.95


def test_a_closed_port_says_so_at_once() -> None:
    error, seconds = refused("127.0.0.1", free_port())
    assert (type(error), error.errno, error.strerror) == (
        ConnectionRefusedError, errno.ECONNREFUSED, "Connection refused",
    )  # fmt: skip
    assert seconds < 2


def test_of_several_refusals_the_last_one_is_said(named: Callable[..., None]) -> None:
    port = free_port()
    named((V4, ("224.0.0.1", port)), (V4, ("127.0.0.1", port)))
    assert refused(NAME, port)[0].errno == errno.ECONNREFUSED


@pytest.mark.parametrize("host", ["x" * 64, "a..b", ".a"])
def test_what_cannot_be_a_name_is_known_to_nobody(host: str) -> None:
    error, seconds = refused(host, 80)
    assert (type(error), error.errno, error.strerror) == (socket.gaierror, socket.EAI_NONAME, "no address")
    assert seconds < 2


def test_a_name_that_nobody_knows_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*args: Any, **named: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    error, _ = refused(NAME, 80)
    assert (type(error), error.strerror) == (socket.gaierror, "Name or service not known")


def test_a_name_without_addresses_is_not_known(named: Callable[..., None]) -> None:
    named()
    error, _ = refused(NAME, 80)
    assert (type(error), error.strerror) == (socket.gaierror, "no address")


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: answered.wait(10) and [])
    error, seconds = refused(NAME, 80, 0.3)
    answered.set()
    assert (type(error), str(error)) == (TimeoutError, "timed out")
    assert 0.3 <= seconds < 3


def test_the_time_for_the_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent() as port:

        def look_up(*args: Any, **named: Any) -> list[Any]:
            time.sleep(0.4)
            return [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        error, seconds = refused(NAME, port, 0.6)
    assert isinstance(error, TimeoutError)
    assert 0.6 <= seconds < 0.95


def test_no_descriptor_is_left_behind(named: Callable[..., None]) -> None:
    with silent("127.0.0.2") as port, silent("127.0.0.3", port), ExitStack() as stack:
        closed: Addresses = [(V4, ("127.0.0.4", port)), (V4, ("224.0.0.1", port))]
        slow: Addresses = [(V4, ("127.0.0.2", port)), (V4, ("127.0.0.3", port))]
        named(*closed, *slow)
        gc.collect()
        before = descriptors()
        refused(NAME, port, 0.7)
        assert descriptors() == before
        stack.enter_context(listening("127.0.0.1", port))
        named((V4, ("127.0.0.1", port)))
        before = descriptors()
        reached(NAME, port)
        assert descriptors() == before
