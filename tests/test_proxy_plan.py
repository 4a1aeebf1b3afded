"""jingxiang.proxy_plan; that Caddy takes it, and what it then answers, is in tests/e2e/test_deploy.py"""

from __future__ import annotations

import json

import pytest

from jingxiang import proxy_plan
from jingxiang.deploy_plan import Front
from jingxiang.proxy_plan import Doors

LOOPBACK, PUBLIC = Front(7860), Front(443, public=True)
NAMED = Front(443, public=True, domain="video.example.com")
DOORS = Doors(8080, 8443, ":8079")


def test_on_loopback_the_proxy_answers_to_no_other_name() -> None:
    config = proxy_plan.caddyfile("7c1d09e2", "jingxiang-7c1d09e2:7860", LOOPBACK, "gpu-1", DOORS)
    assert "@foreign not host localhost 127.0.0.1 [::1]\n\trespond @foreign 421" in config
    assert "http://:8080 {" in config
    assert "auto_https off" in config
    assert "tls internal" not in config


@pytest.mark.parametrize(
    ("front", "host", "there", "absent"),
    [
        (PUBLIC, "203.0.113.7", "https://203.0.113.7 {\n\ttls internal", "@foreign"),
        (PUBLIC, "2001:db8::7", "https://[2001:db8::7] {\n\ttls internal", "@foreign"),
        (NAMED, "203.0.113.7", "https://video.example.com {\n\theader", "tls internal"),
    ],
)
def test_what_others_reach_has_tls_from_an_authority_where_there_is_a_domain(
    front: Front, host: str, there: str, absent: str
) -> None:
    config = proxy_plan.caddyfile("7c1d09e2", "jingxiang-7c1d09e2:7860", front, host, DOORS)
    assert there in config
    assert absent not in config


def test_a_configuration_says_which_version_it_leads_to() -> None:
    config = proxy_plan.caddyfile("7c1d09e2", "jingxiang-7c1d09e2:7860", LOOPBACK, "gpu-1", DOORS)
    assert proxy_plan.serving(config) == "7c1d09e2"
    assert proxy_plan.serving("") == ""


def test_what_programs_are_told_meanwhile_is_json() -> None:
    assert json.loads(proxy_plan.BUSY)["hints"] == []


def test_on_a_host_without_containers_it_keeps_to_loopback_by_itself_and_its_sign_is_a_socket() -> None:
    doors = Doors(7860, 7860, "/home/me/sign", loopback=True)
    config = proxy_plan.caddyfile("7c1d09e2", "127.0.0.1:40000", LOOPBACK, "gpu-1", doors)
    assert "http://:7860 {\n\tbind 127.0.0.1\n" in config
    assert "http://localhost {\n\tbind unix//home/me/sign\n" in config


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("video.example.com", True), ("203.0.113.7", False), ("[::1]", False), ("gpu-1", False), ("", False)],
)
def test_an_address_is_no_domain(name: str, is_one: bool) -> None:
    assert proxy_plan.is_domain(name) == is_one
