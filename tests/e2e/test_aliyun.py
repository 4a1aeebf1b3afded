"""aliyun:// with the official SDK against a server on this machine (tests/peers/aliyun.py); no account was used"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from jingxiang import mirrors, targets
from jingxiang.commands import engines
from jingxiang.deploy_plan import BAD_CHECK, DOWN, DeployError, Order
from jingxiang.errors import UsageError
from jingxiang.findings import OK, PROBLEM
from jingxiang.places import here
from jingxiang.remotes import aliyun as remote_module
from jingxiang.remotes.aliyun import Aliyun
from jingxiang.targets import AliyunTarget
from tests.peers import aliyun, system
from tests.peers.aliyun import Ecs
from tests.peers.images import Versions

pytestmark = pytest.mark.e2e
ADDRESS = "aliyun://cn-test/ecs.gn7i-c8g1.2xlarge?spot=1&hours=2"
DESTRUCTION = f"python3 tasks.py deploy-destroy '{ADDRESS}' --volumes"
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
    assert error.exit_code == BAD_CHECK
    assert error.message.startswith(f"{ADDRESS}: to be put right first: ssh")
    assert error.message.endswith("\n       i-1 costs money until it is released")
    assert error.hints[-1] == DESTRUCTION
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


def test_when_all_answers_are_lost_there_may_be_one(ecs: Ecs) -> None:
    ecs.lost = 4
    error = deploy(ecs)
    assert error.exit_code == DOWN
    assert "whether the instance was made is not known, and if so it costs money" in error.message
    assert error.hints[-1] == DESTRUCTION
    assert len(ecs.instances) == 1


def test_two_who_deploy_at_once_are_told_that_both_have_made_one(ecs: Ecs) -> None:
    ecs.colleague = True
    error = deploy(ecs)
    assert error.exit_code == DOWN
    words = "there are several instances: i-1, i-2; each costs money until it is released"
    assert words in error.message
    (problem,) = remote(ecs).check(Order(), Versions())
    assert (problem.state, words in problem.text) == (PROBLEM, True)
    remote(ecs).destroy(Order(), volumes=True)
    assert ecs.instances == {}


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


TOOLS = ("sh", "curl", "gpg", "gpg-agent", "mktemp", "dpkg", "ln")
APT_GET = """#!/bin/sh
echo "apt-get $*" >>{said}
case "$*" in
*docker.io*) ln -s {bin}/systemctl {bin}/docker ;;
*nvidia-container-toolkit*) ln -s {bin}/systemctl {bin}/nvidia-ctk ;;
esac
"""


@pytest.mark.parametrize("is_theirs", [True, False], ids=["the key", "another key"])
def test_a_new_instance_installs_what_gives_gpus_to_containers(is_theirs: bool, tmp_path: Path) -> None:
    """Real curl and gpg; apt-get and systemctl write down what they are told."""
    programs, said, root = tmp_path / "bin", tmp_path / "said", tmp_path / "root"
    for name in TOOLS:
        found = shutil.which(name)
        system.require(found, f"no {name}")
        (programs / name).parent.mkdir(exist_ok=True)
        (programs / name).symlink_to(str(found))
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >>{said}\n')
    (programs / "apt-get").write_text(APT_GET.format(said=said, bin=programs))
    for name in ("systemctl", "apt-get"):
        (programs / name).chmod(0o755)
    for folder in ("usr/share/keyrings", "etc/apt/sources.list.d"):
        (root / folder).mkdir(parents=True)
    keys = [made_key(tmp_path / name) for name in ("nvidia", "other")]
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "gpgkey").write_bytes(b"".join(block for _, block in keys[not is_theirs :]))
    url = (tmp_path / "served").as_uri()
    argv = ["sh", "-c", remote_module.INSTALL, "sh", url, keys[0][0], str(root)]
    done = subprocess.run(argv, env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
    ring = root / "usr/share/keyrings/nvidia-container-toolkit.gpg"
    sources = root / "etc/apt/sources.list.d/nvidia-container-toolkit.list"
    lines = said.read_text().splitlines()
    assert lines[:2] == ["apt-get update", "apt-get install -y docker.io"]
    if not is_theirs:
        assert (done.returncode, len(lines), sources.exists()) == (1, 2, False)
        assert f"{url}: not the key {keys[0][0]}" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert listed_keys(ring.read_bytes()) == [keys[0][0]], "the other one is left out"
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    assert sources.read_text() == f"deb [signed-by={ring}] {url}/stable/deb/{architecture} /\n"
    assert lines[2:] == [
        "apt-get update", "apt-get install -y nvidia-container-toolkit",
        "nvidia-ctk runtime configure --runtime=docker", "systemctl restart docker",
    ]  # fmt: skip
    # again, as when it is started from an image that has it all
    said.unlink()
    subprocess.run(argv, env={"PATH": str(programs)}, capture_output=True, check=True)
    assert said.read_text().splitlines() == lines[4:]


def made_key(home: Path) -> tuple[str, bytes]:
    """A key to sign with: fingerprint, and what is public of it."""
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch"]
    subprocess.run([*gpg, "--passphrase", "", "--quick-gen-key", home.name, "ed25519"], capture_output=True, check=True)
    block = subprocess.check_output([*gpg, "--armor", "--export", home.name])
    return listed_keys(block)[0], block


def listed_keys(block: bytes) -> list[str]:
    """Fingerprints of the keys in it."""
    argv = ["gpg", "--batch", "--show-keys", "--with-colons"]
    said = subprocess.check_output(argv, input=block, stderr=subprocess.DEVNULL).decode()
    return [line.split(":")[9] for line in said.splitlines() if line.startswith("fpr:")]
