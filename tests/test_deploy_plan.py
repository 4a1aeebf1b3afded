"""jingxiang.deploy_plan"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang.deploy_plan import AUTO, BLUE_GREEN, RECREATE, Front, NotReady, Order, strategy
from jingxiang.errors import UnknownName, UsageError
from jingxiang.findings import OK, PROBLEM, Finding
from jingxiang.gpu import Gpus
from tests.peers.nvml import H200, L20, T4

GIB = 1 << 30


@pytest.mark.parametrize(
    "front", [Front(7860), Front(443, public=True), Front(443, public=True, domain="a.example.com")]
)
def test_a_front_is_read_back_from_its_label(front: Front) -> None:
    assert Front.of(front.text) == front


def test_what_others_can_reach_has_a_password() -> None:
    with pytest.raises(UsageError, match="--public needs a password"):
        Order(front=Front(443, public=True))
    assert Order(front=Front(443, public=True), passwords=Path("passwords")).passwords == Path("passwords")


def test_a_domain_is_for_a_page_that_others_can_reach() -> None:
    with pytest.raises(UsageError, match="--domain needs --public"):
        Order(front=Front(7860, domain="a.example.com"))


def test_a_registry_has_to_be_named() -> None:
    with pytest.raises(UsageError, match="--registry HOST/NAME"):
        Order(transfer="registry")


@pytest.mark.parametrize("name", ["a.example.com {", "a b", "-a.example", "[2001:db8::1]", "a..b", "视频.example"])
def test_a_domain_is_nothing_but_a_name(name: str) -> None:
    """It goes into the configuration of the proxy."""
    with pytest.raises(UsageError, match="--domain"):
        Order(front=Front(443, public=True, domain=name), passwords=Path("passwords"))


@pytest.mark.parametrize("name", ["gpu-1", "a.example.com", "203.0.113.7", "xn--fiq228c.example"])
def test_names_and_addresses_are_domains(name: str) -> None:
    assert Order(front=Front(443, public=True, domain=name), passwords=Path("passwords")).front.domain == name


@pytest.mark.parametrize("port", [-1, 0, 70000])
def test_a_port_is_one_that_exists(port: int) -> None:
    with pytest.raises(UsageError, match="--port"):
        Order(front=Front(port))


def test_a_new_version_gets_some_time() -> None:
    with pytest.raises(UsageError, match="--timeout -1"):
        Order(timeout_s=-1)


@pytest.mark.parametrize(("name", "value"), [("strategy", "rolling"), ("transfer", "scp")])
def test_an_unknown_word_is_said_with_those_that_are_known(name: str, value: str) -> None:
    with pytest.raises(UnknownName, match=f"no {name} named '{value}'; there is auto"):
        Order(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "gpus", "needed", "chosen"),
    [
        (AUTO, Gpus((L20,)), 20 * GIB, BLUE_GREEN),
        (AUTO, Gpus((L20,)), 45 * GIB, RECREATE),
        (AUTO, Gpus((H200, T4)), 20 * GIB, RECREATE),  # a worker runs on each of them
        (AUTO, Gpus(()), 0, BLUE_GREEN),
        (RECREATE, Gpus((H200,)), GIB, RECREATE),
        (BLUE_GREEN, Gpus((T4,)), 45 * GIB, BLUE_GREEN),
    ],
)
def test_two_versions_run_at_once_where_each_card_has_room(asked: str, gpus: Gpus, needed: int, chosen: str) -> None:
    found, reason = strategy(asked, gpus, needed)
    assert found == chosen
    assert reason


def test_what_is_to_be_put_right_is_named_and_the_exit_code_says_that_nothing_was_changed() -> None:
    error = NotReady(
        "ssh://gpu-1", [Finding("ssh", OK, ""), Finding("disk", PROBLEM, ""), Finding("port", PROBLEM, "")]
    )
    assert error.message == "ssh://gpu-1: to be put right first: disk, port; nothing was changed"
    assert error.exit_code == 2
