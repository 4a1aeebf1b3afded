"""sky:// as far as SkyPilot goes without a cloud: it reads the task; no machine was rented"""

from __future__ import annotations

import json
import subprocess
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
    passwords.write_text("li:correct-horse\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JINGXIANG_JOBS", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):  # nobody answers there
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Order(front=Front(443, public=True), passwords=passwords)


def remote(address: str) -> Sky:
    target = targets.parse(address)
    assert isinstance(target, SkyTarget)
    return Sky(target, address, PYTHON.__getitem__)


def test_skypilot_takes_the_task_and_what_it_does_not_check_is_said(order: Order) -> None:
    found = {each.subject: each.state for each in remote("sky://aws/us-east-1?gpu=A100:1").check(order, Versions())}
    assert found["task"] == OK
    assert found["GPU"] == NOTE  # its list of cards is on a server that is not reached
    shut = remote("sky://aws?gpu=A100:1&replicas=2").check(replace(order, front=Front(443)), Versions())
    assert [each.subject for each in shut if each.state == PROBLEM] == ["public", "queue"]


CARDS = """\
InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone
1x_L40S_SECURE,L40S,1.0,16.0,62.0,"{'Gpus': [{'MemoryInfo': {'SizeInMiB': 49152}}]}",0.99,0.5,US,US-TX-1
"""


@pytest.mark.parametrize(("gpu", "state", "words"), [
    ("L40S:1", OK, ("L40S:1", "")), ("L40:1", PROBLEM, ("L40: SkyPilot knows no such card", "near: L40S")),
])  # fmt: skip
def test_a_card_that_the_cloud_does_not_have_is_refused(
    order: Order, tmp_path: Path, gpu: str, state: str, words: tuple[str, str]
) -> None:
    """By SkyPilot's list of that cloud's cards, as it has fetched it before."""
    listed = tmp_path / ".sky" / "catalogs" / "v8" / "runpod" / "vms.csv"
    listed.parent.mkdir(parents=True)
    listed.write_text(CARDS)
    found = {each.subject: each for each in remote(f"sky://runpod?gpu={gpu}").check(order, Versions())}
    assert (found["GPU"].state, found["GPU"].text, found["GPU"].fix) == (state, *words)


# SkyPilot's own calls, without machines: one service after the other as it would be seen. Prints how that ends.
WAITS = """\
import json, sys
sys.path.append(sys.argv[1])
from jingxiang.remotes import sky_client
from jingxiang.remotes.client import Problem
seen = json.loads(sys.argv[2])
sky_client.POLL_S = 0
sky_client.certify = sky_client.parsed = lambda _: None
sky_client.found = lambda: seen.pop(0)
sky_client.say = lambda *_, **__: None
sky_client.sky.get = sky_client.serve.update = sky_client.serve.up = lambda *_, **__: None
try:
    sky_client.deploy(task={"service": {"tls": {"keyfile": "/x/key.pem"}}}, timeout_s=60)
except Problem as problem:
    print(json.dumps([problem.kind, problem.more]))
"""


def service(version: int, serving: list[int], **replicas: str) -> dict[str, object]:
    rows = [{"replica_id": number, "version": version, "status": each} for number, each in enumerate(replicas.values())]
    return {"version": version, "active_versions": serving, "status": "READY", "replica_info": rows}


@pytest.mark.parametrize(("seen", "ends"), [
    ([None, service(1, [1], a="READY", b="FAILED")], {"text": "FAILED, READY", "serving": [1], "old": 0}),
    ([service(1, [1], a="READY"), service(2, [1], b="FAILED")], {"text": "FAILED", "serving": [1], "old": 1}),
    ([None, service(1, [], a="FAILED_PROVISION")], {"text": "FAILED_PROVISION", "serving": [], "old": 0}),
])  # fmt: skip
def test_what_serves_after_a_failure_is_what_skypilot_says(
    order: Order, seen: list[object], ends: dict[str, object]
) -> None:
    argv = [str(PYTHON["sky"]), "-I", "-c", WAITS, str(here().root), json.dumps(seen)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["unhealthy", ends]


def test_a_cloud_that_it_does_not_know_is_refused(order: Order) -> None:
    (problem,) = [each for each in remote("sky://aliyun/cn-hangzhou").check(order, Versions()) if each.state == PROBLEM]
    assert problem.subject == "task"
    assert "aliyun" in problem.text.lower()


def test_a_misspelt_key_is_refused(order: Order) -> None:
    task = Service(SkyTarget("aws"), str(here().root), "smoke", "cpu", 60, "/sky", {}).task()
    task["service"]["readines"] = task["service"].pop("readiness_probe")
    with pytest.raises(Refused, match="readiness_probe"):
        Sdk("sky", PYTHON.__getitem__).ask("check", task=task, gpu="A100")
