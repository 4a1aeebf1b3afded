"""`sky://`: the app as a service of SkyPilot; machines, replicas, scaling and their order are SkyPilot's own work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from jingxiang import console, findings, models, passwords, sky_task, weights
from jingxiang.deploy_plan import DOWN, RESTORED, Deployed, DeployError, NotReady, Order, Status, command, has_problem
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.findings import NOTE, OK, PROBLEM, Finding
from jingxiang.gpu import Gpu, Gpus
from jingxiang.language import tr
from jingxiang.places import here
from jingxiang.remotes import asked, money
from jingxiang.remotes.base import Images, Tools
from jingxiang.remotes.sdk import Event, Refused, Sdk
from jingxiang.sky_task import Service
from jingxiang.targets import BUCKET_KEYS, SkyTarget

PARTLY = 1  # exit code: the new version serves, but not all of it
INSTALL_S = 1800  # to install the environment and fetch the weights on a new machine, before it can get ready
# SkyPilot's images have a newer driver than this; which one differs from cloud to cloud.
DRIVER, ARCHITECTURE = "525", "8.0"


@dataclass(frozen=True)
class Sky:
    """One service; see `Remote`."""

    target: SkyTarget
    address: str
    tools: Tools

    def check(self, order: Order, images: Images) -> tuple[Finding, ...]:
        """What SkyPilot does not say before machines are rented: the card's name, ports, the program, passwords."""
        found = [*self._asked(order), *asked.unheeded(order, "--strategy", "--transfer", "--registry", "--port")]
        name = self.target.gpu.partition(":")[0]
        service = self._service(order, images)
        found += _licence(service)
        try:
            answer = self._sdk.ask("check", task=service.task(), gpu=name)
        except Refused as error:
            return (*found, Finding("task", PROBLEM, str(error.event.get("text"))))
        found.append(Finding("task", OK, tr("SkyPilot takes it")))
        if answer["known"]:
            found.append(Finding("GPU", OK, self.target.gpu))
        elif answer["known"] is None:
            text = tr("{gpu}: SkyPilot's list of cards cannot be had now: whether it is one will show", gpu=name)
            found.append(Finding("GPU", NOTE, text))
        else:
            text = tr("{gpu}: SkyPilot knows no such card", gpu=name)
            fix = tr("near: {names}", names=answer["text"]) if answer["text"] else "sky show-gpus"
            found.append(Finding("GPU", PROBLEM, text, fix))
        return tuple(found)

    def plan(self, order: Order, images: Images) -> str:
        """The task, as `sky serve up` takes it: JSON is YAML, too."""
        return json.dumps(self._service(order, images).shown(), indent=2, ensure_ascii=False)

    def deploy(self, order: Order, images: Images) -> Deployed:
        found = self.check(order, images)
        findings.show(found)
        if has_problem(found):
            raise NotReady(self.address, found)
        count = self.target.most or self.target.replicas
        text = tr("{count} x {gpu} of {infra}, and a machine that minds them, until deploy-destroy; how much: "
                  "sky show-gpus {name}", count=count, gpu=self.target.gpu, infra=self.target.infra,
                  name=self.target.gpu.partition(":")[0])  # fmt: skip
        money.agreed(order, self.address, text)
        service = self._service(order, images)
        last: Event = {}
        try:
            for last in self._events("deploy", task=service.task(), timeout_s=order.timeout_s + INSTALL_S):
                if last["event"] == "step" and last["text"]:
                    console.line("wait", last["text"])
        except Refused as error:
            raise self._failed(error) from error
        except (KeyboardInterrupt, SystemExit):
            text = tr("SkyPilot goes on with it, and its machines cost money: {command}", command=self._destruction)
            console.warn(text)
            raise
        return Deployed(last["version"], last["endpoint"], "rolling")

    def status(self) -> Status:
        found = self._ask("status")
        if not found["state"]:
            return Status(self.address, "absent")
        state = found["state"].lower()
        return Status(self.address, state, found["version"], found["endpoint"], more=found["replicas"])

    def logs(self, *, follows: bool, failed: bool) -> Iterator[str]:
        """SkyPilot keeps the log of a replica that failed with the others."""
        try:
            for event in self._events("logs", follows=follows):
                if event["event"] == "line":
                    yield str(event["text"])
        except Refused as error:
            raise self._explained(error) from error

    def rollback(self, order: Order, version: str) -> Deployed:
        text = tr("{address}: SkyPilot keeps no earlier version: check it out, and deploy it", address=self.address)
        raise UsageError(text)

    def destroy(self, order: Order, *, volumes: bool) -> None:
        """All machines go, and with them what is not in a bucket."""
        if not self.target.media and not volumes:
            text = tr("{address}: its videos are on machines that go; --volumes agrees to that", address=self.address)
            raise UsageError(text)
        self._ask("destroy")

    def _asked(self, order: Order) -> Iterator[Finding]:
        yield from asked.logins(order)
        if not order.front.public:
            text = tr("SkyPilot's address can be reached by anybody")
            yield Finding("public", PROBLEM, text, "--public --password-file FILE")
        if order.front.domain:
            yield Finding("public", PROBLEM, tr("a name of your own is not ours to do here: leave out --domain"))
        several = max(self.target.replicas, self.target.most) > 1
        jobs = os.environ.get(sky_task.JOBS, "")
        if several and not (jobs.startswith("postgresql") and self.target.media):
            text = tr("several replicas need one queue and one place for videos")
            yield Finding("queue", PROBLEM, text, "JINGXIANG_JOBS=postgresql://…, ?media=s3://BUCKET/FOLDER")

    def _service(self, order: Order, images: Images) -> Service:
        card = Gpu(self.target.gpu, DRIVER, 0, 0, ARCHITECTURE)
        choice = images.choose(Gpus((card,)))
        secrets = {}
        if order.passwords is not None:
            secrets[sky_task.PASSWORDS] = passwords.text(order.passwords)
        for name in (sky_task.JOBS, *(BUCKET_KEYS if self.target.media else ())):
            if os.environ.get(name):
                secrets[name] = os.environ[name]
        places = here()
        return Service(
            self.target, str(places.root), choice.model, choice.profile, order.timeout_s + INSTALL_S,
            str(places.home / "sky"), secrets, choice.model in weights.accepted(places.home),
        )  # fmt: skip

    @property
    def _destruction(self) -> str:
        return command("deploy-destroy", self.address, *([] if self.target.media else ["--volumes"]))

    @property
    def _sdk(self) -> Sdk:
        return Sdk("sky", self.tools)

    def _events(self, action: str, **job: object) -> Iterator[Event]:
        return self._sdk.events(action, **job)

    def _ask(self, action: str) -> Event:
        try:
            return self._sdk.ask(action)
        except Refused as error:
            raise self._explained(error) from error

    def _explained(self, error: Refused) -> JingxiangError:
        if error.kind == "absent":
            return UsageError(tr("{address}: nothing is deployed there", address=self.address))
        return JingxiangError(f"{self.address}: {error.event.get('text')}", ("sky check",))

    def _failed(self, error: Refused) -> JingxiangError:
        """SkyPilot itself keeps the replicas of the old version until those of the new one are ready."""
        if error.kind != "unhealthy":
            return self._explained(error)
        serving, old = error.event["serving"], error.event["old"]
        reason = error.event["text"] or tr("there is no replica")
        text = tr("the new version is not healthy: {reason}", reason=reason)
        if old in serving:
            code, end = RESTORED, tr("still serving: {version}", version=old)
        elif serving:
            code, end = PARTLY, tr("it serves all the same, with the replicas that are ready")
        else:
            code, end = DOWN, tr("nothing is serving; its machines still cost money")
        return DeployError(code, f"{text}\n       {end}", (command("deploy-logs", self.address),
                                                          self._destruction))  # fmt: skip


def _licence(service: Service) -> Iterator[Finding]:
    """Conditions are accepted here, by somebody who reads them, and not by a machine that is set up."""
    spec = models.load(here().root / models.FILE).model(service.model)
    if spec.weights and not (spec.weights.licence.free or service.accepts):
        licence = spec.weights.licence
        text = tr("{model}: its licence has conditions: {name}, {url}", model=spec.name, name=licence.name,
                  url=licence.url)  # fmt: skip
        fix = f"python3 tasks.py fetch {spec.name} --accept-license"
        yield Finding("licence", PROBLEM, text, tr("read it; if you accept it: {command}", command=fix))
