"""aliyun:// with the official SDK against a server on this machine (tests/peers/aliyun.py); no account was used"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from jingxiang import mirrors, targets
from jingxiang.commands import engines
from jingxiang.deploy_plan import BAD_CHECK, DOWN, DeployError, NotReady, Order
from jingxiang.errors import UsageError
from jingxiang.findings import OK, PROBLEM
from jingxiang.places import here
from jingxiang.remotes import aliyun as remote_module
from jingxiang.remotes.aliyun import Aliyun
from jingxiang.targets import AliyunTarget
from tests.peers import aliyun
from tests.peers.aliyun import Ecs
from tests.peers.images import Versions

pytestmark = pytest.mark.e2e
ADDRESS = "aliyun://cn-test/ecs.gn7i-c8g1.2xlarge?spot=1&hours=2"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG user@desk"
KNOWN = mirrors.load(here().root)
SECRET = "only-the-sdk-knows-this-one"


@pytest.fixture
def ecs(no_proxy: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ecs]:
    """With an account, and a user who has a key and whose new instances take logins at once or never."""
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", SECRET)
    monkeypatch.setattr(remote_module, "SSH_S", 0)
    tools = engines.tools(here(), KNOWN, mirror="auto", name="aliyun")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JINGXIANG_HOME", str(tmp_path / "home"))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text(f"{KEY}\n")
    monkeypatch.setattr(engines, "tools", lambda *_, **__: tools)
    with aliyun.serving() as found:
        yield found


def remote(ecs: Ecs, address: str = ADDRESS) -> Aliyun:
    target = targets.parse(address)
    assert isinstance(target, AliyunTarget)
    return Aliyun(target, address, lambda name: engines.tools(here(), KNOWN, mirror="auto", name=name), ecs.address)


def deploy(ecs: Ecs, *, agrees: bool = True) -> DeployError:
    """It never comes further than to the login: nothing listens there."""
    with pytest.raises(DeployError) as caught:
        remote(ecs).deploy(Order(agrees=agrees), Versions())
    return caught.value


def actions(ecs: Ecs) -> list[str]:
    return [action for action, _ in ecs.asked]


def test_one_instance_is_made_with_all_that_limits_it(ecs: Ecs, capsys: pytest.CaptureFixture[str]) -> None:
    error = deploy(ecs)
    assert isinstance(error, NotReady)
    assert error.message.startswith(f"{ADDRESS}: to be put right first: ssh")
    (instance,) = ecs.instances.values()
    varied = ("UserData", "AutoReleaseTime", "ClientToken")
    assert {name: value for name, value in instance.items() if name not in varied} == {
        "RegionId": "cn-test", "DryRun": "False", "Amount": "1", "MinAmount": "1", "InstanceName": "jingxiang",
        "InstanceType": "ecs.gn7i-c8g1.2xlarge", "ImageId": "m-0", "VSwitchId": "vsw-1", "SecurityGroupId": "sg-1",
        "SpotStrategy": "SpotAsPriceGo", "InstanceChargeType": "PostPaid", "InternetChargeType": "PayByTraffic",
        "InternetMaxBandwidthOut": "100", "SystemDisk.Category": "cloud_essd", "SystemDisk.Size": "200",
        "Tag.1.Key": "jingxiang", "Tag.1.Value": "cn-test/ecs.gn7i-c8g1.2xlarge", "InstanceId": "i-1",
    }  # fmt: skip
    assert instance["ClientToken"]
    until = datetime.strptime(instance["AutoReleaseTime"], "%Y-%m-%dT%H:%M:%S%z")
    assert timedelta(hours=1.9) < until - datetime.now(timezone.utc) <= timedelta(hours=2)
    assert f'ssh_authorized_keys: ["{KEY}"]' in base64.b64decode(instance["UserData"]).decode()
    said = capsys.readouterr().err
    assert "ecs.gn7i-c8g1.2xlarge: 9.5 CNY an hour and what is sent, until" in said
    assert SECRET not in said
    assert SECRET not in json.dumps([ecs.asked, ecs.headers])

    # it is found again, and no other one is made
    deploy(ecs)
    assert len(ecs.instances) == 1
    with pytest.raises(UsageError, match="--volumes agrees to that"):
        remote(ecs).destroy(Order(), volumes=False)
    remote(ecs).destroy(Order(), volumes=True)
    assert ecs.instances == {}
    assert remote(ecs).status().state == "absent"


def test_nothing_is_made_before_somebody_agrees(ecs: Ecs) -> None:
    error = deploy(ecs, agrees=False)
    assert (error.exit_code, error.message) == (BAD_CHECK, f"{ADDRESS}: this costs money: --yes agrees to it")
    assert ecs.instances == {}
    assert "SystemDisk.Size" in dict(ecs.asked)["DescribePrice"]


def test_a_lost_answer_does_not_make_a_second_one(ecs: Ecs) -> None:
    ecs.lost = 1
    deploy(ecs)
    assert len(ecs.instances) == 1
    made = [asked["ClientToken"] for action, asked in ecs.asked if action == "RunInstances" and "ClientToken" in asked]
    assert len(made) == 2
    assert len(set(made)) == 1


@pytest.mark.parametrize(("answer", "message"), [
    (("OperationDenied.NoStock", "sold out"), "OperationDenied.NoStock: code: 400, sold out request id: R"),
    (("DryRunOperation.Other", "no"), "DryRunOperation.Other: code: 400, no request id: R"),
])  # fmt: skip
def test_only_one_code_means_that_a_dry_run_has_passed(ecs: Ecs, answer: tuple[str, str], message: str) -> None:
    ecs.dry_run = answer
    error = deploy(ecs)
    assert (error.exit_code, error.message) == (BAD_CHECK, f"{ADDRESS}: Aliyun refuses it: {message}")
    assert actions(ecs).count("RunInstances") == 1
    assert ecs.instances == {}


def test_a_dry_run_that_made_an_instance_is_said(ecs: Ecs) -> None:
    ecs.dry_run = None
    error = deploy(ecs)
    assert error.exit_code == DOWN
    assert error.message == "a dry run made an instance: i-1; it costs money until it is released"


def test_the_check_and_the_plan_make_nothing(ecs: Ecs) -> None:
    found = remote(ecs).check(Order(), Versions())
    assert [(each.subject, each.state) for each in found] == [("Aliyun", OK), ("price", OK)]
    plan = json.loads(remote(ecs).plan(Order(), Versions()))
    assert (plan["price_per_hour"], plan["currency"], plan["image"]) == (9.5, "CNY", "m-0")
    assert ecs.instances == {}


@pytest.mark.parametrize(("change", "message"), [
    ({"images": ("ubuntu_24_04",)}, "no image with NVIDIA's driver was found for ecs.gn7i-c8g1.2xlarge: image=ID"),
    ({"stock": "SoldOut"}, "no zone has ecs.gn7i-c8g1.2xlarge now"),
    ({"groups": ()}, "no security group in vpc-1: make one that lets port 22 in, or group=ID"),
])  # fmt: skip
def test_what_is_missing_there_is_said(ecs: Ecs, change: dict[str, object], message: str) -> None:
    for name, value in change.items():
        setattr(ecs, name, value)
    (problem,) = remote(ecs).check(Order(), Versions())
    assert (problem.state, problem.text) == (PROBLEM, f"{ADDRESS}: {message}")


def test_without_an_account(ecs: Ecs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALIBABA_CLOUD_ACCESS_KEY_ID")
    monkeypatch.delenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET")
    monkeypatch.setenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
    (problem,) = remote(ecs).check(Order(), Versions())
    assert "no credentials: ALIBABA_CLOUD_ACCESS_KEY_ID" in problem.text
    assert ecs.asked == []
