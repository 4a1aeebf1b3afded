"""jingxiang.ports"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

from jingxiang import ports
from jingxiang.errors import UsageError
from jingxiang.ports import PortTaken

IF_INET6 = Path("/proc/net/if_inet6")
ADDRESSES = IF_INET6.read_text() if IF_INET6.exists() else ""


def refused(host: str, port: int) -> str:
    with pytest.raises(UsageError) as caught:
        ports.bind(host, port)
    return caught.value.message


def test_port_0_is_a_free_port_of_the_kernels_choice() -> None:
    with ports.bind("127.0.0.1", 0) as first, ports.bind("127.0.0.1", 0) as second:
        (host, one), (_, other) = first.getsockname(), second.getsockname()
        assert (host, one > 0, one != other) == ("127.0.0.1", True, True)


def test_a_bound_port_can_be_listened_on() -> None:
    with ports.bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname(), timeout=5) as caller:
            answer, _ = listener.accept()
            with answer:
                assert answer.getpeername() == caller.getsockname()


@pytest.mark.skipif("0" * 31 + "1" not in ADDRESSES, reason="this machine has no IPv6")
def test_a_host_may_be_ipv6() -> None:
    with ports.bind("::1", 0) as listener:
        assert (listener.family, listener.getsockname()[0]) == (socket.AF_INET6, "::1")


def test_a_port_that_was_just_given_back_can_be_taken_again() -> None:
    """Its closed connections still wait in the kernel, as after a restart of the app."""
    with ports.bind("127.0.0.1", 0) as listener:
        listener.listen()
        address = listener.getsockname()
        with socket.create_connection(address, timeout=5) as caller:
            listener.accept()[0].close()  # the side that closes first keeps the port in TIME_WAIT
            assert caller.recv(1) == b""
    ports.bind(*address).close()


def test_a_taken_port_is_said_with_who_has_it() -> None:
    with ports.bind("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            ports.bind("127.0.0.1", port)
    name = psutil.Process().name()
    assert caught.value.message == f"port {port} of 127.0.0.1 is taken by {name} (pid {os.getpid()})"
    assert (caught.value.hints, caught.value.exit_code) == (("--port 0",), 2)


def test_who_cannot_be_seen_is_another_users_program() -> None:
    with ports.bind("127.0.0.1", 0) as bound:  # bound only: nobody listens
        assert ports.owner(bound.getsockname()[1]) == "another user's program"


def test_who_only_calls_from_a_port_does_not_have_it() -> None:
    with ports.bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname(), timeout=5) as caller:
            assert ports.owner(caller.getsockname()[1]) == "another user's program"


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    assert refused("127.0.0.1", port) == f"port {port} is not between 0 and 65535"


def test_a_host_without_an_address_is_refused() -> None:
    host = "fe80::1%no-such-interface"  # needs no name server
    assert refused(host, 0) == f"no address for host '{host}': Name or service not known"


def test_a_host_that_is_no_name_is_refused() -> None:
    assert refused("a..b", 0).startswith("no address for host 'a..b': ")


def test_an_address_of_another_machine_is_refused() -> None:
    # RFC 5737: documentation only, so never ours
    assert refused("192.0.2.1", 0) == "cannot listen on 192.0.2.1:0: Cannot assign requested address"
