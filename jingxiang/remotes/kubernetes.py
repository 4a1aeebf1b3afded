"""`k8s://`: the app in a namespace of a cluster; rollouts, restarts and scaling are Kubernetes' own work."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jingxiang import console, findings, image_definition, manifests, passwords
from jingxiang.deploy_plan import (
    DOWN,
    LOCKED,
    NOT_SENT,
    RESTORED,
    Deployed,
    DeployError,
    NotReady,
    Order,
    Release,
    Status,
    command,
    has_problem,
)
from jingxiang.digest import short
from jingxiang.errors import JingxiangError, UnknownName, UsageError
from jingxiang.findings import NOTE, OK, PROBLEM, Finding
from jingxiang.gpu import Gpu, Gpus
from jingxiang.language import tr
from jingxiang.manifests import Cluster
from jingxiang.places import here
from jingxiang.profiles import CPU
from jingxiang.remotes import asked, ledger
from jingxiang.remotes.base import Choice, Images, Tools
from jingxiang.remotes.sdk import Event, Refused, Sdk
from jingxiang.targets import BUCKET_KEYS, KubernetesTarget

MIB = 1 << 20
# What a card is taken for where no label says what it is: an older driver than most clusters have, so that it fits.
UNKNOWN = Gpu("NVIDIA GPU", "525", 0, 0, "8.0")
# What `look` finds where it cannot look.
NOTHING: Event = {
    "nodes": None, "classes": None, "namespace": None, "keda": False, "secrets": [], "edition": "", "server": "",
}  # fmt: skip
ADMIN = "jingxiang"  # the name that a password is made for
POSTGRES = ("postgresql://", "postgresql+psycopg://")


@dataclass(frozen=True)
class Kubernetes:
    """One namespace; see `Remote`."""

    target: KubernetesTarget
    address: str
    tools: Tools

    def check(self, order: Order, images: Images) -> tuple[Finding, ...]:
        try:
            found = self._looked()
        except Refused as error:
            return (*_asked(order), Finding("cluster", PROBLEM, *_unreachable(error)))
        return self._findings(order, found)

    def _findings(self, order: Order, found: Event) -> tuple[Finding, ...]:
        return (
            *_asked(order), *asked.unheeded(order, "--strategy", "--transfer"),
            Finding("cluster", OK, tr("Kubernetes {version}", version=found["server"])),
            *self._rights(found), *self._cards(found), *self._storage(found), *self._queue(found), *self._left(found),
        )  # fmt: skip

    def plan(self, order: Order, images: Images) -> str:
        """The manifests. Which digest the image has is known when it has been made."""
        try:
            found = self._looked()
        except Refused as error:
            console.warn(tr("{reason}; planned as if nothing were there", reason=_unreachable(error)[0]))
            found = NOTHING
        image = f"{order.registry or 'HOST/NAME'}@DIGEST"
        cluster = self._cluster(found, order, images.choose(_cards(found)), image=image, version="VERSION")
        names = sorted({*found["secrets"], *self._values(found, order)} - {"edition"})
        return manifests.shown(cluster, names).rstrip("\n")

    def deploy(self, order: Order, images: Images) -> Deployed:
        try:
            found = self._looked()
        except Refused as error:
            raise self._explained(error) from error
        findings.show(report := self._findings(order, found))
        if has_problem(report):
            raise NotReady(self.address, report)
        choice = images.choose(_cards(found))
        image = images.make(choice)
        try:
            reference = images.push(image, order.registry)
        except JingxiangError as error:
            raise DeployError(NOT_SENT, error.message, error.hints) from error
        version = short(image.digest.removeprefix("sha256:"))
        values = self._values(found, order)
        cluster = self._cluster(found, order, choice, image=reference, version=version)
        if values or not cluster.edition:
            cluster = replace(cluster, edition=secrets.token_hex(4))
        secret = manifests.secret(values, cluster.edition) if cluster.edition != found["edition"] else None
        stages = [[manifests.recorded(each) for each in stage.manifests] for stage in manifests.stages(cluster)]
        if manifests.PASSWORDS in values and order.passwords is None:
            name, _, password = values[manifests.PASSWORDS].strip().partition(":")
            console.line("login", tr("user {name}, password {password}", name=name, password=password))
        self._follow("deploy", order, stages=stages, secret=secret, is_new=found["namespace"] is False)
        return self._deployed(order, version, manifests.strategy(cluster))

    def status(self) -> Status:
        found = self._ask("status")
        rows = found["deployments"]
        if not rows:
            return Status(self.address, "absent")
        first = _serving(rows)
        versions = [each["version"] for each in first["kept"]]
        is_ready = all(row["ready"] >= row["wanted"] for row in rows)
        releases = tuple(_release(each) for each in first["kept"] if each["notes"])
        queue = found["readyz"] or {}
        more = {row["name"]: f"{row['ready']}/{row['wanted']}" for row in rows}
        return Status(
            self.address, "ready" if is_ready else "loading", first["version"], _url(7860), queue.get("running"),
            queue.get("queued"), tuple(dict.fromkeys(each for each in versions if each != first["version"])), releases,
            more,
        )  # fmt: skip

    def logs(self, *, follows: bool, failed: bool) -> Iterator[str]:
        for event in self._events("logs", follows=follows, failed=failed):
            if event["event"] == "line":
                yield str(event["text"])

    def rollback(self, order: Order, version: str) -> Deployed:
        done = self._follow("rollback", order, version=version, at=ledger.now())
        return self._deployed(order, str(done["version"]), "rollback")

    def destroy(self, order: Order, *, volumes: bool) -> None:
        done = self._follow("destroy", order, volumes=volumes)
        if done["left"]:
            console.line("kept", ", ".join(done["left"]))
            console.more(tr("pictures, videos and passwords; with --volumes they go, too"))

    # What is sent

    def _looked(self) -> Event:
        """What is there. Raises `Refused`."""
        where = {"context": self.target.context, "namespace": self.target.namespace}
        return self._sdk.ask("look", **where, is_shared=self.target.gpus > 1)

    def _cluster(self, found: Event, order: Order, choice: Choice, *, image: str, version: str) -> Cluster:
        return Cluster(
            self.target, image_definition.load(here().root), image, version, on_gpu=choice.profile != CPU.name,
            ready_s=order.timeout_s, edition=found["edition"],
            notes={manifests.BY: ledger.by(), manifests.AT: ledger.now(), manifests.HOW: "deploy"},
            has_keda=found["keda"], owns_database=self._owns_database(found),
        )  # fmt: skip

    def _owns_database(self, found: Event) -> bool:
        """Unless the user has one, now or when it was deployed before."""
        held = found["secrets"]
        is_given = bool(os.environ.get(manifests.JOBS)) or (
            manifests.JOBS in held and manifests.DATABASE_PASSWORD not in held
        )
        return self.target.gpus > 1 and not is_given

    def _values(self, found: Event, order: Order) -> dict[str, str]:
        """What the Secret gets anew: what was given, and what is not there yet."""
        held, values = found["secrets"], {}
        if order.passwords is not None:
            values[manifests.PASSWORDS] = passwords.text(order.passwords)
        elif manifests.PASSWORDS not in held:
            values[manifests.PASSWORDS] = f"{ADMIN}:{secrets.token_urlsafe(12)}\n"
        if self.target.gpus > 1:
            if given := os.environ.get(manifests.JOBS):
                # without the driver, which SQLAlchemy alone understands, and not KEDA
                values[manifests.JOBS] = f"{POSTGRES[0]}{given.partition('://')[2]}"
            elif self._owns_database(found) and manifests.DATABASE_PASSWORD not in held:
                password = secrets.token_hex(16)  # no character of it needs to be quoted in a URL
                values[manifests.DATABASE_PASSWORD] = password
                values[manifests.JOBS] = manifests.database_url(self.target, password)
        if self.target.media:
            values |= {name: os.environ[name] for name in BUCKET_KEYS if os.environ.get(name)}
        return values

    # What is found

    def _rights(self, found: Event) -> Iterator[Finding]:
        if found["namespace"] is False:
            yield Finding("namespace", NOTE, tr("{name} is not there yet: it will be made", name=self.target.namespace))
        if found["forbidden"]:
            text = tr("you may not: {verbs}", verbs=", ".join(found["forbidden"]))
            yield Finding("rights", PROBLEM, text, tr("ask whoever runs the cluster for these rights in {name}",
                                                      name=self.target.namespace))  # fmt: skip
        else:
            yield Finding("rights", OK, tr("all that is needed in {name}", name=self.target.namespace))

    def _cards(self, found: Event) -> Iterator[Finding]:
        nodes = found["nodes"]
        if nodes is None:
            yield Finding("GPU", NOTE, tr("the nodes may not be seen: whether one has a card will show"))
        elif not nodes:
            yield Finding("GPU", NOTE, tr("no node offers nvidia.com/gpu now: pods wait until one does"),
                          tr("without GPUs: --profile cpu; else NVIDIA's device plugin"))  # fmt: skip
        else:
            cards = sum(node["cards"] for node in nodes)
            state = OK if cards >= self.target.gpus else NOTE
            text = tr("{cards} on {nodes} nodes: {name}", cards=cards, nodes=len(nodes), name=_card(nodes[0]).name)
            yield Finding("GPU", state, text)

    def _storage(self, found: Event) -> Iterator[Finding]:
        classes, wanted = found["classes"], self.target.storage
        if classes is None:
            return
        if wanted and wanted not in classes:
            yield Finding("storage", PROBLEM, UnknownName("storage class", wanted, classes).message)
        elif not wanted and not any(classes.values()):
            text = tr("the cluster has no default storage class")
            address = f"{self.address}{'&' if '?' in self.address else '?'}storage=CLASS"
            yield Finding("storage", PROBLEM, text, tr("name one: {address}", address=shlex.quote(address)))
        elif self.target.gpus > 1 and not self.target.media:
            name = wanted or tr("(the default)")
            text = tr("volumes of class {name} must be mountable by all nodes (ReadWriteMany)", name=name)
            yield Finding("storage", NOTE, text, tr("or a bucket: media=s3://BUCKET/FOLDER"))

    def _queue(self, found: Event) -> Iterator[Finding]:
        if self.target.gpus == 1:
            return
        given = os.environ.get(manifests.JOBS, "")
        if given and not given.startswith(POSTGRES):
            yield Finding("queue", PROBLEM, tr("JINGXIANG_JOBS should begin with postgresql://"))
        elif self._owns_database(found):
            yield Finding("queue", OK, tr("PostgreSQL in the namespace; another one: JINGXIANG_JOBS=postgresql://…"))
        else:
            yield Finding("queue", OK, tr("PostgreSQL, as JINGXIANG_JOBS says"))
        text = tr("KEDA: 1 to {most} workers, by queue length", most=self.target.gpus) if found["keda"] else tr(
            "without KEDA: always {count} workers", count=self.target.gpus
        )  # fmt: skip
        yield Finding("scaling", OK, text)

    def _left(self, found: Event) -> Iterator[Finding]:
        """One card has its queue in SQLite on its volume, several have theirs in PostgreSQL: jobs do not move."""
        if not found["leaves"]:
            return
        queue = found["readyz"]
        if queue is None or not queue.get("page"):
            text = tr("jobs of the other number of cards stay behind; whether there are any cannot be seen now")
            yield Finding("queue", NOTE, text)
        elif count := queue["queued"] + queue["running"]:
            text = tr("{count} jobs wait or run in the queue of the other number of cards, and would stay behind",
                      count=count)  # fmt: skip
            fix = tr("wait for their end: {command}", command=command("deploy-status", self.address))
            yield Finding("queue", PROBLEM, text, fix)

    # Talking

    @property
    def _sdk(self) -> Sdk:
        return Sdk("kubernetes", self.tools)

    def _events(self, action: str, **job: object) -> Iterator[Event]:
        """Raises `DeployError` for what the program refuses."""
        where = {"context": self.target.context, "namespace": self.target.namespace}
        try:
            yield from self._sdk.events(action, **where, **job)
        except Refused as error:
            raise self._explained(error) from error

    def _ask(self, action: str) -> Event:
        *_, last = self._events(action)
        return last

    def _follow(self, action: str, order: Order, **job: object) -> Event:
        """Show what happens; gives the result. Raises `DeployError` with what failed, and what serves still."""
        failed: Event | None = None
        undone: Event | None = None
        job |= {"by": ledger.by(), "breaks_lock": order.breaks_lock}
        job |= {"timeout_s": order.timeout_s} if action != "destroy" else {}
        last: Event = {}
        try:
            for last in self._events(action, **job):
                if last["event"] == "step":
                    _show(last)
                if last["event"] == "failed":
                    failed = last
                    text = tr("what was there before is brought back; to interrupt that leaves it half done")
                    console.line("undo", text)
                undone = last if last["event"] == "undone" else undone
        except JingxiangError:
            if failed is None or failed["kind"] == "taken":
                raise
            raise self._failed(failed, undone or {}) from None
        except (KeyboardInterrupt, SystemExit):
            if failed:
                console.line("serving", _serves(undone or {})[1])
            elif last.get("event") == "result":
                console.line("serving", tr("that was done already"))
            raise
        return last

    def _explained(self, error: Refused) -> JingxiangError:
        more = error.event
        if error.kind in ("locked", "taken"):
            text = tr("{address}: {who} deploys there since {since}", address=self.address, who=more["by"] or "?",
                      since=more["since"] or "?")  # fmt: skip
            return DeployError(LOCKED, text, (tr("if that is over: --break-lock"),))
        if error.kind == "version":
            if not more["version"]:
                return UsageError(tr("{address}: no other version is kept", address=self.address))
            return UnknownName("version", more["version"], more["known"], where=self.address)
        if error.kind == "absent":
            return UsageError(tr("{address}: nothing is deployed there", address=self.address))
        text, fix = _unreachable(error)
        return JingxiangError(f"{self.address}: {text}", (fix,) if fix else ())

    def _failed(self, failed: Event, undone: Event) -> DeployError:
        lines = [str(line) for line in failed.get("lines", ())]
        text = "\n       ".join([tr("the new version is not healthy: {reason}", reason=_reason(failed)), *lines])
        code, end = _serves(undone)
        return DeployError(code, f"{text}\n       {end}", (
            command("deploy-logs", self.address, "--failed"),
        ))  # fmt: skip

    def _deployed(self, order: Order, version: str, strategy: str) -> Deployed:
        words = ["kubectl", "--context", self.target.context, "-n", self.target.namespace, "port-forward",
                 f"service/{manifests.NAME}", f"{order.front.port}:80"]  # fmt: skip
        return Deployed(version, _url(order.front.port), strategy, hint=shlex.join(words))


def _asked(order: Order) -> Iterator[Finding]:
    """What a cluster cannot do, or cannot do without."""
    yield from asked.logins(order)
    if order.front.public:
        text = tr("--public is not ours to do here: put an Ingress with TLS in front of the Service jingxiang")
        yield Finding("public", PROBLEM, text)
    if not order.registry:
        yield Finding("registry", PROBLEM, tr("a cluster pulls images from a registry"), "--registry HOST/NAME")


def _cards(found: Event) -> Gpus:
    """A card of the kind that the pods get. Nodes may come only when a pod waits: none now does not mean no card."""
    nodes = found["nodes"]
    return Gpus((_card(nodes[0]) if nodes else UNKNOWN,))


def _card(node: Mapping[str, Any]) -> Gpu:
    """By the labels of NVIDIA's GPU feature discovery, where that is installed."""
    labels = node["labels"]
    driver = labels.get("cuda.driver-version.major") or labels.get("cuda.driver.major") or UNKNOWN.driver
    memory = int(labels.get("gpu.memory", 0)) * MIB
    major, minor = labels.get("gpu.compute.major"), labels.get("gpu.compute.minor")
    architecture = f"{major}.{minor}" if major and minor else UNKNOWN.architecture
    return Gpu(labels.get("gpu.product", UNKNOWN.name), driver, memory, memory, architecture)


def _unreachable(error: Refused) -> tuple[str, str]:
    """What the user reads, and what may help."""
    text = str(error.event.get("text", error.kind))
    if error.kind == "config":
        return text, "kubectl config get-contexts"
    if error.kind == "unreachable":
        return tr("the cluster does not answer: {reason}", reason=text), "kubectl cluster-info"
    return tr("the cluster refuses it: {reason}", reason=text), ""


def _reason(failed: Event) -> str:
    kind = failed["kind"]
    if kind == "ended":
        return tr("a container of {pod} ended with exit code {code}", pod=failed["pod"], code=failed["code"])
    if kind == "stuck":
        return f"{failed['pod']}: " + ": ".join(filter(None, (failed["reason"], failed["message"])))
    if kind == "timeout":
        text = tr("{name} was not ready within {seconds} s", name=failed["name"], seconds=failed["seconds"])
        return ": ".join(filter(None, (text, failed["reason"])))
    if kind == "gone":
        return tr("{name} was deleted meanwhile", name=failed["name"])
    if kind == "interrupted":
        return tr("it was interrupted")
    if kind == "taken":
        return tr("{who} deploys there now", who=failed["by"] or "?")
    return str(failed.get("text") or kind)


def _serves(undone: Event) -> tuple[int, str]:
    """What does after a deployment was undone: the exit code, and in words."""
    if serves := undone.get("serves"):
        return RESTORED, tr("still serving: {version}", version=serves)
    if not undone:
        return DOWN, tr("what serves now is not known: the cluster does not answer any more")
    if undone.get("kind"):
        text = tr("nothing is serving: what was there before did not come back: {reason}", reason=_reason(undone))
        return DOWN, text
    return DOWN, tr("nothing is serving; what was applied was taken back")


def _show(event: Event) -> None:
    if event["what"] == "waits":
        console.line("wait", f"{event['name']}: {event['text']}")
    elif event["what"] == "drains":
        console.line("wait", tr("{name} finishes the videos that it is at", name=event["name"]))
    elif event["what"] == "removed":
        console.line("remove", event["name"])
    else:
        console.line("apply", f"{event['kind']} {event['name']}")


def _serving(rows: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The one whose version is that of the page."""
    return next((row for row in rows if row["role"] != manifests.WORKER), rows[0])


def _release(kept: Mapping[str, Any]) -> Release:
    notes = kept["notes"]
    values = (notes.get(name, "") for name in (manifests.IMAGE, manifests.AT, manifests.BY, manifests.HOW))
    return Release(kept["version"], *values)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
