"""`aliyun://`: one instance is rented, and then it is a host like any other. Beta: never tried with a real account."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from jingxiang import console
from jingxiang.deploy_plan import (
    BAD_CHECK,
    DOWN,
    LOCKED,
    RESTORED,
    Deployed,
    DeployError,
    NotReady,
    Order,
    Status,
    command,
)
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.findings import OK, PROBLEM, Finding
from jingxiang.language import tr
from jingxiang.places import here
from jingxiang.remotes import money
from jingxiang.remotes.base import Images, Remote, Tools
from jingxiang.remotes.sdk import Event, Refused, Sdk
from jingxiang.remotes.ssh import Connection, Login, Unreachable
from jingxiang.remotes.ssh_docker import SshDocker
from jingxiang.targets import AliyunTarget, SshTarget

SSH_S, PAUSE_S = 300, 5.0  # until a new instance takes logins
KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")  # the public half goes to the instance
READY_S = 900.0  # until it has installed what it lacks
# NVIDIA's packages for docker, from a mirror that hosts in China reach; signed by the key of this fingerprint.
TOOLKIT = "https://mirrors.ustc.edu.cn/libnvidia-container"
TOOLKIT_KEY = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
# Run once by a new instance, as root. $1, $2: as above; $3: what paths begin with.
INSTALL = r"""
set -eu
export DEBIAN_FRONTEND=noninteractive
have() { command -v "$1" >/dev/null; }
install() { apt-get update; apt-get install -y "$@"; }
have docker || install docker.io
if ! have nvidia-ctk; then
  have curl && have gpg || install ca-certificates curl gpg
  keys=$(mktemp -d) ring=$3/usr/share/keyrings/nvidia-container-toolkit.gpg
  curl -fsS --retry 5 "$1/gpgkey" | gpg --homedir "$keys" --batch --import
  gpg --homedir "$keys" --batch --export "$2" >"$ring"  # this one alone, whatever else came with it
  [ -s "$ring" ] || { echo "$1: not the key $2" >&2; exit 1; }
  echo "deb [signed-by=$ring] $1/stable/deb/$(dpkg --print-architecture) /" \
    >"$3/etc/apt/sources.list.d/nvidia-container-toolkit.list"
  install nvidia-container-toolkit
fi
nvidia-ctk runtime configure --runtime=docker
systemctl restart docker
"""
SCRIPT = """\
#cloud-config
ssh_authorized_keys: {keys}
disable_root: false
runcmd:
  - {install}
"""
# It may take logins before all that is done, and may have been made from an image without cloud-init.
AWAIT = "command -v cloud-init >/dev/null || exit 0; cloud-init status --wait"


@dataclass(frozen=True)
class Aliyun:
    """One instance; see `Remote`. `endpoint`: HOST:PORT of another server than Aliyun's, over plain HTTP."""

    target: AliyunTarget
    address: str
    tools: Tools
    endpoint: str = ""

    def check(self, order: Order, images: Images) -> tuple[Finding, ...]:
        """Of the account and what may be rented; of the instance itself where it is there already."""
        try:
            now = self._found()
            if now["id"]:
                return self._host(now).check(order, images)
            prepared = self._ask("prepare", wanted=self._wanted())
        except JingxiangError as error:
            return (Finding("Aliyun", PROBLEM, error.message, "; ".join(error.hints)),)
        return (
            Finding("Aliyun", OK, tr("it would make the instance (dry run)")),
            Finding("price", OK, self._price(prepared)),
        )

    def plan(self, order: Order, images: Images) -> str:
        now = self._found()
        if now["id"]:
            return self._host(now).plan(order, images)
        prepared = self._ask("prepare", wanted=self._wanted())
        asked = {name: value for name, value in prepared["order"].items() if name != "script"}
        price = {"price_per_hour": prepared["price"], "currency": prepared["currency"]}
        return json.dumps({**asked, **price}, indent=2, ensure_ascii=False)

    def deploy(self, order: Order, images: Images) -> Deployed:
        now = self._found()
        ids = [now["id"]] if now["id"] else []
        with self._costing(ids):
            if not ids:
                now = self._create(order, ids)
            self._await_ready(now)
            return self._host(now).deploy(order, images)

    def status(self) -> Status:
        now = self._found()
        if not now["id"]:
            return Status(self.address, "absent")
        found = self._host(now).status()
        return replace(found, more={**found.more, "instance": now["id"], "released": now["until"]})

    def logs(self, *, follows: bool, failed: bool) -> Iterator[str]:
        return self._there().logs(follows=follows, failed=failed)

    def rollback(self, order: Order, version: str) -> Deployed:
        return self._there().rollback(order, version)

    def destroy(self, order: Order, *, volumes: bool) -> None:
        """The instance goes with its disk: there is nowhere for pictures and videos to stay."""
        if not volumes:
            text = tr("{address}: its videos are on machines that go; --volumes agrees to that", address=self.address)
            raise UsageError(text)
        gone = self._ask("release", name=self._name)
        console.line("remove", ", ".join(gone["ids"]) or tr("there is no instance"))

    # Renting

    @contextlib.contextmanager
    def _costing(self, ids: list[str]) -> Iterator[None]:
        """What goes wrong once there is an instance: that it costs money is said, too."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            if ids:
                console.warn(f"{_costs(ids)}: {self._destruction}")
            raise
        except JingxiangError as error:
            if not ids or error.exit_code in (RESTORED, LOCKED):
                raise
            text = f"{error.message}\n       {_costs(ids)}"
            raise DeployError(error.exit_code, text, (*error.hints, self._destruction)) from error

    def _create(self, order: Order, ids: list[str]) -> Event:
        """`ids`: gets its id as soon as there is one."""
        wanted = self._wanted()
        prepared = self._ask("prepare", wanted=wanted)
        money.agreed(order, self.address, self._price(prepared))
        last: Event = {}
        token = str(uuid.uuid4())
        try:
            for last in self._events("create", order=prepared["order"], token=token):
                if last["event"] == "made":
                    ids.append(last["id"])
                    console.line("instance", last["id"])
        except JingxiangError as error:
            if not ids:
                raise
            raise DeployError(DOWN, error.message, error.hints) from error
        return last

    def _wanted(self) -> dict[str, Any]:
        until = datetime.now(timezone.utc) + timedelta(hours=self.target.hours)
        target = self.target
        return {
            "name": self._name, "type": target.instance_type, "spot": target.spot, "disk_gb": target.disk_gb,
            "key": target.key, "image": target.image, "group": target.group, "switch": target.switch,
            "until": until.strftime("%Y-%m-%dT%H:%M:00Z"), "script": self._script(),
        }  # fmt: skip

    def _script(self) -> str:
        """What the instance does when it starts first."""
        install = ["sh", "-c", INSTALL, "sh", TOOLKIT, TOOLKIT_KEY, ""]
        return SCRIPT.format(keys=json.dumps(self._keys()), install=json.dumps(install))

    def _keys(self) -> list[str]:
        """The user's public key, unless one that Aliyun has is to be taken. Raises `UsageError`."""
        if self.target.key:
            return []
        found = [path for name in KEYS if (path := Path.home() / ".ssh" / name).is_file()]
        if not found:
            raise UsageError(
                tr("there is no key to log in with: neither key=NAME nor {names}", names=", ".join(KEYS)),
                hints=("ssh-keygen -t ed25519",),
            )
        return [found[0].read_text(encoding="utf-8").strip()]

    def _price(self, prepared: Event) -> str:
        return tr("{type}: {price} {currency} an hour and what is sent, until {until} at the latest",
                  type=self.target.instance_type, price=prepared["price"], currency=prepared["currency"],
                  until=prepared["order"]["until"])  # fmt: skip

    # The host

    def _host(self, now: Event) -> Remote:
        """Addresses are used again by others: each instance has its own list of known hosts."""
        known = here().home / "aliyun" / now["id"]
        known.parent.mkdir(parents=True, exist_ok=True)
        options = ("StrictHostKeyChecking=accept-new", f'UserKnownHostsFile="{known}"')
        target = SshTarget(now["address"], "root")
        return SshDocker(target, self.address, Login(target.host, target.user, None, options))

    def _there(self) -> Remote:
        now = self._found()
        if not now["id"]:
            raise UsageError(tr("{address}: nothing is deployed there", address=self.address))
        return self._host(now)

    def _await_ready(self, now: Event) -> None:
        host = self._host(now)
        assert isinstance(host, SshDocker)
        end = time.monotonic() + SSH_S
        while True:
            try:
                with Connection(host.login) as link:
                    if link.run(AWAIT, timeout_s=READY_S).code:
                        console.warn(tr("cloud-init did not end well on {id}: see there /var/log/cloud-init-output.log",
                                        id=now["id"]))  # fmt: skip
                    return
            except Unreachable as error:
                if time.monotonic() > end:
                    hints = (tr("port 22 in the security group (安全组)"), *error.hints)
                    found = Finding("ssh", PROBLEM, error.message, "; ".join(hints))
                    raise NotReady(self.address, [found]) from error
            time.sleep(PAUSE_S)

    # Talking

    @property
    def _destruction(self) -> str:
        return command("deploy-destroy", self.address, "--volumes")

    @property
    def _name(self) -> str:
        return f"{self.target.region}/{self.target.instance_type}"

    def _found(self) -> Event:
        return self._ask("find", name=self._name)

    def _events(self, action: str, **job: object) -> Iterator[Event]:
        sdk = Sdk("aliyun", self.tools)
        try:
            yield from sdk.events(action, region=self.target.region, endpoint=self.endpoint, **job)
        except Refused as error:
            raise self._explained(error) from error

    def _ask(self, action: str, **job: object) -> Event:
        *_, last = self._events(action, **job)
        return last

    def _explained(self, error: Refused) -> JingxiangError:
        text = str(error.event.get("text", ""))
        if error.kind == "made":
            text = tr("a dry run made an instance: {id}; it costs money until it is released", id=text)
            return DeployError(DOWN, text, ("https://ecs.console.aliyun.com",))
        if error.kind == "several":
            text = tr("there are several instances: {ids}; each costs money until it is released", ids=text)
            return DeployError(DOWN, f"{self.address}: {text}", (self._destruction,))
        if error.kind == "lost":
            text = tr("whether the instance was made is not known, and if so it costs money: {reason}", reason=text)
            return DeployError(DOWN, f"{self.address}: {text}", (
                command("deploy-status", self.address), self._destruction,
            ))  # fmt: skip
        known = {
            "image": tr("no image with NVIDIA's driver was found for {type}: image=ID", type=text),
            "stock": tr("no zone has {type} now", type=self.target.instance_type),
            "switch": tr("no vSwitch in a zone that has it ({zones}): make one, or switch=ID", zones=text),
            "group": tr("no security group in {vpc}: make one that lets port 22 in, or group=ID", vpc=text),
            "credentials": tr("no credentials: ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or "
                              "~/.alibabacloud/credentials.ini"),
            "refused": tr("Aliyun refuses it: {code}: {text}", code=error.event.get("code"), text=text),
            "slow": tr("{id} has no address yet", id=text),
        }  # fmt: skip
        text = known.get(error.kind) or tr("Aliyun does not answer: {reason}", reason=text)
        return DeployError(BAD_CHECK, f"{self.address}: {text}")


def _costs(ids: list[str]) -> str:
    return tr("{ids} costs money until it is released", ids=", ".join(ids))
