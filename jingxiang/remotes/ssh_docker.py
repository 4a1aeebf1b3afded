"""A host with docker behind ssh: check, lock, send, start, switch, tidy up."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException, HTTPSConnection

from jingxiang import console, container_plan, findings, host_check, image_definition, images, proxy_plan
from jingxiang.container_plan import Settings
from jingxiang.deploy_plan import (
    AUTO,
    BAD_CHECK,
    BLUE_GREEN,
    NOT_SENT,
    RECREATE,
    REGISTRY,
    Deployed,
    DeployError,
    Front,
    NotReady,
    Order,
    Status,
    has_problem,
    strategy,
)
from jingxiang.digest import short
from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.findings import OK, PROBLEM, Finding
from jingxiang.host_check import PROXY, Facts, Need
from jingxiang.images import Image
from jingxiang.language import tr
from jingxiang.places import here
from jingxiang.remotes import ledger, rollout
from jingxiang.remotes.base import Choice, Images
from jingxiang.remotes.docker_site import DockerSite, EngineRefused, Version, api
from jingxiang.remotes.rollout import Step
from jingxiang.remotes.ssh import Connection, Login, Unreachable, get, hostname
from jingxiang.sinks.base import SinkFull
from jingxiang.sinks.docker_load import DockerLoad
from jingxiang.targets import SshTarget

KEPT = 3  # versions, with the one that serves
SENDINGS = 3  # a transfer that breaks off goes on from the layers that are there
FROM_HERE_S = 10.0


@dataclass(frozen=True)
class Looked:
    """What a check found: facts of the host, what the image is to be (None: none fits), and the list for people."""

    facts: Facts | None
    choice: Choice | None
    findings: tuple[Finding, ...]


class SshDocker:
    """`login`: how to get there, where that is not what the target says; see `remotes.base.Remote`."""

    def __init__(self, target: SshTarget, address: str, login: Login | None = None) -> None:
        self.address = address
        self.login = login or Login(target.host, target.user, target.port)
        self.definition = image_definition.load(here().root)

    def check(self, order: Order, images: Images) -> tuple[Finding, ...]:
        try:
            with Connection(self.login) as link:
                return self._look(link, order, images).findings
        except Unreachable as error:
            return (_no_way(error),)

    def plan(self, order: Order, images: Images) -> str:
        with self._connected() as link:
            looked = self._look(link, order, images)
            self._show(looked)
            if looked.facts is None or looked.choice is None or has_problem(looked.findings):
                raise NotReady(self.address, looked.findings)
            site = self._site(link, looked.facts, order.front)
            serving = site.serving()
            chosen, reason = strategy(order.strategy, looked.facts.gpus, looked.choice.needed_bytes)
            return json.dumps(
                {
                    "target": self.address, "model": looked.choice.model, "profile": looked.choice.profile,
                    "strategy": chosen if serving else "first", "reason": reason if serving else "",
                    "transfer": REGISTRY if self._by_registry(order) else "ssh", "serving": serving,
                    "front": asdict(order.front), "kept": [each.name for each in site.versions()][:KEPT],
                    "findings": [asdict(each) for each in looked.findings],
                },
                indent=2, ensure_ascii=False,
            )  # fmt: skip

    def deploy(self, order: Order, images: Images) -> Deployed:
        begun = time.monotonic()
        with self._connected() as link:
            looked = self._look(link, order, images)
            self._show(looked)
            if looked.facts is None or looked.choice is None or has_problem(looked.findings):
                raise NotReady(self.address, looked.findings)
            checked = time.monotonic()
            image = images.make(looked.choice)
            made = time.monotonic()
            site = self._site(link, looked.facts, order.front)
            with ledger.locked(link, breaks=order.breaks_lock):
                sent_bytes = self._send(site, looked.facts, image, images, order)
                sent = time.monotonic()
                self._probe(site, looked, image.id)
                settings = Settings(gpus=bool(looked.choice.needed_bytes), passwords=order.passwords is not None)
                done = self._serve(site, looked, order, self._wanted(site, image.id, settings, order), image.id)
            figures = {"check_s": checked - begun, "make_s": made - checked, "send_s": sent - made,
                       "serve_s": time.monotonic() - sent}  # fmt: skip
        return replace(done, sent_bytes=sent_bytes, size_bytes=image.size_bytes,
                       figures={name: round(value, 2) for name, value in figures.items()})  # fmt: skip

    def status(self) -> Status:
        with self._connected() as link:
            site = self._present(link)
            serving, listed = site.serving(), ledger.releases(link)
            kept = tuple(each.name for each in site.versions() if each.name != serving)
            if not serving:
                return Status(self.address, "absent", kept=kept, releases=listed)
            answer = site.readiness(serving)
            running, queued = rollout.jobs(answer)
            state = "ready" if answer.status == 200 else "loading" if site.life(serving).runs else "stopped"
            return Status(self.address, state, serving, self._url(site.front), running, queued, kept, listed)

    def logs(self, *, follows: bool, failed: bool) -> Iterator[str]:
        with self._connected() as link:
            site = self._present(link)
            version = site.serving()
            if not (failed or version):
                raise JingxiangError(tr("{address}: nothing is deployed there", address=self.address))
            name = container_plan.FAILED if failed else container_plan.container(version)
            yield from site.follow(name) if follows else site.log(name, 1000)

    def rollback(self, order: Order, version: str) -> Deployed:
        with self._connected() as link, ledger.locked(link, breaks=order.breaks_lock):
            site = self._present(link)
            serving = site.serving()
            kept = {each.name: each for each in site.versions() if each.name != serving}
            if version and version not in kept:
                raise UnknownName("version", version, kept, where=self.address)
            if not kept:
                raise JingxiangError(tr("{address}: keeps no other version", address=self.address))
            chosen = kept[version] if version else self._before(link, serving, kept)
            looked = Looked(self._facts(link, order), None, ())
            order = replace(order, front=site.front, passwords=order.passwords)
            return self._serve(site, looked, order, chosen, chosen.image, how="rollback")

    def destroy(self, order: Order, *, volumes: bool) -> None:
        with self._connected() as link, ledger.locked(link, breaks=order.breaks_lock):
            site = self._present(link)
            versions = site.versions()
            for each in versions:
                rollout.let_finish(site, each.name, container_plan.DRAIN_S + container_plan.GRACE_S)
            for name in (PROXY, container_plan.FAILED, *(container_plan.container(each.name) for each in versions)):
                site.remove(name)
            site.remove_network()
            site.remove_images()
            for volume in (container_plan.PROXY_DATA, container_plan.SECRETS):
                site.remove_volume(volume)
            if volumes:
                site.remove_volume(container_plan.OUTPUTS)
                console.line("removed", tr("{count} versions, and all pictures and videos", count=len(versions)))
            else:
                console.line("removed", tr("{count} versions; pictures and videos stay: {volume}", count=len(versions),
                                           volume=container_plan.OUTPUTS))  # fmt: skip
            ledger.forget(link)

    # --- steps ---

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with Connection(self.login) as link:
                yield link
        except Unreachable as error:
            raise DeployError(BAD_CHECK, error.message, error.hints) from error

    def _facts(self, link: Connection, order: Order) -> Facts:
        registry = order.registry.partition("/")[0]
        now = time.time()
        said = link.run(host_check.SCRIPT, str(order.front.port), registry)
        return host_check.facts(said.stdout, now_s=now)

    def _look(self, link: Connection, order: Order, images: Images) -> Looked:
        facts = self._facts(link, order)
        try:
            choice = images.choose(facts.gpus)
            need = Need(choice.profile, choice.needed_bytes, choice.weights_bytes)
        except JingxiangError as error:
            choice, need = None, Need(None, problem=error.message, fix=", ".join(error.hints))
        return Looked(facts, choice, host_check.findings(self.login.host, facts, need, order))

    def _show(self, looked: Looked) -> None:
        if has_problem(looked.findings) or looked.facts is None:
            findings.show(looked.findings)
            return
        facts = looked.facts
        cards = facts.gpus.cards
        parts = [facts.system, f"docker {facts.version}", *([cards[0].name] if cards else []),
                 tr("{size} of disk free", size=console.size(facts.free_bytes))]  # fmt: skip
        count = sum(each.state == OK for each in looked.findings)
        console.line("check", f"{self.login.host}: {', '.join(parts)}: " + tr("{count} checks passed", count=count))

    def _site(self, link: Connection, facts: Facts, front: Front) -> DockerSite:
        return DockerSite(link, facts.endpoint, self.definition, front, hostname(self.login))

    def _present(self, link: Connection) -> DockerSite:
        """With the front that is there. Raises `EngineRefused`."""
        order = Order()
        site = self._site(link, self._facts(link, order), order.front)
        site.front = site.present_front() or site.front
        return site

    def _send(self, site: DockerSite, facts: Facts, image: Image, source: Images, order: Order) -> int:
        """Have the image on the host, under its own digest; gives the bytes that were sent."""
        tag = f"{container_plan.REPOSITORY}:{short(image.id.removeprefix('sha256:'))}"
        sink = DockerLoad(site.url, tag, name=self.login.host)
        needed = sink.room(image.layers, sink.held(image.layers)).needed_bytes
        if needed > facts.free_bytes:
            text = tr("{host}: {free} of disk free, and the image needs {needed} while it is taken in",
                      host=self.login.host, free=console.size(facts.free_bytes),
                      needed=console.size(needed))  # fmt: skip
            raise DeployError(BAD_CHECK, text, (tr("docker system prune there"),))
        if self._by_registry(order) and self._pulled(site, image, source, order, tag):
            return 0
        for number in range(SENDINGS):
            try:
                sent = source.put(image, sink)
                break
            except JingxiangError as error:
                if isinstance(error, SinkFull) or site.link.is_alive or number == SENDINGS - 1:
                    raise DeployError(NOT_SENT, error.message, error.hints) from error
                console.line("send", tr("the connection was lost; it goes on with what is missing"))
            try:
                site.link.restore()
            except Unreachable as error:
                raise DeployError(NOT_SENT, error.message, error.hints) from error
        for count in range(1, len(image.layers)):  # what earlier attempts have left
            site.remove_image(images.part(image, count).id)
        return sent

    def _by_registry(self, order: Order) -> bool:
        return bool(order.registry) and order.transfer in (AUTO, REGISTRY)

    def _pulled(self, site: DockerSite, image: Image, source: Images, order: Order, tag: str) -> bool:
        """Through a registry. Where that does not work, and need not, the rest goes over ssh."""
        try:
            name = source.push(image, order.registry)
            repository, _, digest = name.partition("@")
            site.ask(lambda client: api(client).pull(repository, tag=digest))
            found = site.ask(lambda client: str(api(client).inspect_image(name)["Id"]))
            if found not in (image.id, image.digest):
                raise EngineRefused(tr("{name} is another image there", name=name))
            site.ask(lambda client: api(client).tag(name, *tag.split(":"), force=True))
        except JingxiangError as error:
            if order.transfer == REGISTRY:
                raise DeployError(NOT_SENT, error.message, error.hints) from error
            console.warn(tr("{reason}: over ssh instead", reason=error.message))
            return False
        console.line("send", tr("through {registry}", registry=order.registry))
        return True

    def _probe(self, site: DockerSite, looked: Looked, image_id: str) -> None:
        """That a container really gets the GPUs, where there was no image to try it with before."""
        if not (looked.choice and looked.choice.needed_bytes) or (looked.facts and looked.facts.probe is not None):
            return
        found = host_check.probed(site.run(container_plan.gpu_probe(image_id)))
        if found.state == PROBLEM:
            findings.show([found])
            raise NotReady(self.address, [found])

    def _wanted(self, site: DockerSite, image_id: str, settings: Settings, order: Order) -> Version:
        """The version that is the image, run in that way: one that is there, or a new container."""
        versions = site.versions()
        given = order.passwords.read_bytes() if order.passwords else b""
        for each in versions:
            if (each.image, each.settings) == (image_id, settings) and (not given or site.secret(each.name) == given):
                return each
        name = container_plan.version(image_id, {each.name for each in versions})
        site.create(container_plan.container(name), container_plan.app(name, image_id, settings, self.definition))
        if given:
            site.put(
                container_plan.container(name), container_plan.SECRETS_FOLDER, container_plan.PASSWORDS, given, 0o600
            )
        return Version(name, image_id, settings, runs=False, created=0)

    def _serve(
        self, site: DockerSite, looked: Looked, order: Order, wanted: Version, image_id: str, how: str = "deploy"
    ) -> Deployed:
        """From what serves to `wanted`."""
        site.proxy(image_id)
        old = site.serving()
        self._stop_strays(site, {old, wanted.name})
        if old == wanted.name and site.life(old).runs:
            rollout.wait_ready(site, old, order.timeout_s)
            console.line("switch", tr("{version} serves already", version=old))
            return Deployed(old, self._url(site.front), "none", self._hint(site.front))
        old = old if old != wanted.name and self._exists(site, old) else ""
        needed = looked.choice.needed_bytes if looked.choice else self._needed(wanted, looked)
        chosen, reason = strategy(order.strategy, looked.facts.gpus, needed) if looked.facts else (RECREATE, "")
        if old:
            verb = tr("blue/green") if chosen == BLUE_GREEN else tr("recreate")
            console.line("switch", tr("{strategy}: {reason}", strategy=verb, reason=reason))
        finish_s = container_plan.DRAIN_S + container_plan.GRACE_S
        rollout.roll(site, Step(self.address, old, wanted.name, order.timeout_s, finish_s), chosen)
        ledger.note(site.link, wanted.name, wanted.image, how)
        self._prune(site, wanted.name)
        self._check_from_here(site)
        return Deployed(wanted.name, self._url(site.front), chosen if old else "first", self._hint(site.front))

    def _needed(self, wanted: Version, looked: Looked) -> int:
        """GPU memory of a version of which only the container is known: as much as there is."""
        cards = looked.facts.gpus.cards if looked.facts else ()
        return max((card.memory_bytes for card in cards), default=1) if wanted.settings.gpus else 0

    def _exists(self, site: DockerSite, version: str) -> bool:
        return bool(version) and any(each.name == version for each in site.versions())

    def _stop_strays(self, site: DockerSite, expected: set[str]) -> None:
        """A version that runs without being led to: somebody was cut off while deploying it."""
        for each in site.versions():
            if each.runs and each.name not in expected:
                rollout.let_finish(site, each.name, container_plan.DRAIN_S + container_plan.GRACE_S)

    def _before(self, link: Connection, serving: str, kept: dict[str, Version]) -> Version:
        """The one that served last before this one."""
        order = [each.version for each in reversed(ledger.releases(link)) if each.version in kept]
        return kept[order[0]] if order else next(iter(kept.values()))

    def _prune(self, site: DockerSite, serving: str) -> None:
        """Keep the last versions; what they alone needed goes with the others."""
        versions = site.versions()
        kept = [serving, *(each.name for each in versions if each.name != serving)][:KEPT]
        images = {each.image for each in versions if each.name in kept}
        for each in versions:
            if each.name not in kept:
                site.remove(container_plan.container(each.name))
        site.remove_images(images)

    def _url(self, front: Front) -> str:
        if not front.public:
            return f"http://127.0.0.1:{front.port}"
        host = front.domain or hostname(self.login)
        shown = f"[{host}]" if ":" in host else host
        return f"https://{shown}" if front.port == 443 else f"https://{shown}:{front.port}"

    def _hint(self, front: Front) -> str:
        return "" if front.public else f"ssh -L {front.port}:127.0.0.1:{front.port} {self.login.shown}"

    def _check_from_here(self, site: DockerSite) -> None:
        """As whoever opens the page gets there. It is healthy already, so what is in the way lies between."""
        front = site.front
        if not front.public:
            status = get(site.link.forward(f"127.0.0.1:{front.port}"), "/healthz").status
        else:
            own = "" if proxy_plan.is_domain(front.domain) else site.certificate()
            status = _over_tls(front.domain or hostname(self.login), front.port, own)
        if status != 200:
            console.warn(
                tr("{url} is healthy on the host, but does not answer from here: look at the security group and the "
                   "firewall for port {port}", url=self._url(front), port=front.port)
            )  # fmt: skip


def _over_tls(host: str, port: int, own: str) -> int:
    """Status of /healthz; 0 without an answer, or with a certificate that is not to be trusted. `own`: PEM of the
    authority that the host has made for itself."""
    try:
        context = ssl.create_default_context(cadata=own or None)
        connection = HTTPSConnection(host, port, timeout=FROM_HERE_S, context=context)
        with contextlib.closing(connection):
            connection.request("GET", "/healthz")
            return connection.getresponse().status
    except (OSError, HTTPException):
        return 0


def _no_way(error: Unreachable) -> Finding:
    return Finding("ssh", PROBLEM, error.message, "; ".join(error.hints))
