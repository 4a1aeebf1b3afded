"""sky:// as far as SkyPilot goes without a cloud: it reads the task; no machine was rented"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jingxiang import mirrors, targets
from jingxiang.commands import engines
from jingxiang.deploy_plan import Front, Order
from jingxiang.findings import NOTE, OK, PROBLEM
from jingxiang.places import here
from jingxiang.remotes.sdk import Refused, Sdk
from jingxiang.remotes.sky import Sky
from jingxiang.sky_task import Service
from jingxiang.targets import SkyTarget
from tests.peers.images import Versions

pytestmark = pytest.mark.e2e
PYTHON: dict[str, Path] = {}  # where it was found before the home folder was another one


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """SkyPilot keeps what it finds out in the home folder."""
    PYTHON["sky"] = engines.tools(here(), mirrors.load(here().root), mirror="auto", name="sky")
    passwords = tmp_path / "passwords"
    passwords.write_text("li:hunter2\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("JINGXIANG_JOBS", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Order(front=Front(443, public=True), passwords=passwords)


def remote(address: str) -> Sky:
    target = targets.parse(address)
    assert isinstance(target, SkyTarget)
    return Sky(target, address, PYTHON.__getitem__)


def test_skypilot_takes_the_task_and_what_it_does_not_check_is_said(order: Order) -> None:
    found = {each.subject: each.state for each in remote("sky://aws/us-east-1?gpu=A100:1").check(order, Versions())}
    assert found["task"] == OK
    assert found["GPU"] in (OK, NOTE)  # its list of cards is on a server that not everybody reaches
    shut = remote("sky://aws?gpu=A100:1&replicas=2").check(replace(order, front=Front(443)), Versions())
    assert [each.subject for each in shut if each.state == PROBLEM] == ["public", "queue"]


def test_a_cloud_that_it_does_not_know_is_refused(order: Order) -> None:
    (problem,) = [each for each in remote("sky://aliyun/cn-hangzhou").check(order, Versions()) if each.state == PROBLEM]
    assert problem.subject == "task"
    assert "aliyun" in problem.text.lower()


def test_a_misspelt_key_is_refused(order: Order) -> None:
    task = Service(SkyTarget("aws"), str(here().root), "smoke", "cpu", 60, "/sky", {}).task()
    task["service"]["readines"] = task["service"].pop("readiness_probe")
    with pytest.raises(Refused, match="readiness_probe"):
        Sdk("sky", PYTHON.__getitem__).ask("check", task=task, gpu="A100")
