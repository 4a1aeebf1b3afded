"""A host behind ssh, with docker or without: check, lock, bring the version there, switch to it, tidy up.

What a version is there, and how it comes there, the kinds of hosts say (`ssh_docker`, `ssh_env`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException, HTTPSConnection
from typing import Protocol

from jingxiang import console, findings, host_check, host_facts, proxy_plan
from jingxiang.container_plan import DRAIN_S, GRACE_S, Settings
from jingxiang.deploy_plan import (
    BAD_CHECK,
    BLUE_GREEN,
    Deployed,
    DeployError,
    Front,
    NotReady,
    Order,
    Status,
    has_problem,
    strategy,
)
from jingxiang.errors import JingxiangError, UnknownName, UsageError
from jingxiang.findings import OK, PROBLEM, Finding
from jingxiang.gpu import Gpus
from jingxiang.host_check import Need
from jingxiang.host_facts import Facts
from jingxiang.language import tr
from jingxiang.profiles import NoneFits
from jingxiang.remotes import ledger, rollout
from jingxiang.remotes.base import Choice, Images
from jingxiang.remotes.ledger import Records
from jingxiang.remotes.rollout import Site, Step
from jingxiang.remotes.ssh import Connection, Login, Unreachable, get, hostname

KEPT = 3  # versions, with the one that serves
FROM_HERE_S = 10.0
FACTS_S = 180.0  # a container is tried among other things, on a disk that may be slow
LOG_LINES = 1000
FINISH_S = DRAIN_S + GRACE_S


@dataclass(frozen=True)
class Version:
    """One that the host has. `image`: what it was made from; `created`: seconds since 1970; `served`: it has been
    ready before."""

    name: str
    image: str
    settings: Settings
    runs: bool
    created: float
    served: bool = False


@dataclass
class Fronts:
    """Where the page answers: that of `before` as it was, that of all others as it is wanted. So nothing but what was
    asked for is let out, also when a new version does not get ready."""

    wanted: Front
    before: str = ""
    present: Front | None = None

    def of(self, version: str) -> Front:
        return self.present if self.present and version == self.before else self.wanted

    def restore(self) -> None:
        """As it was, for all."""
        self.wanted = self.present or self.wanted


class HostSite(Site, Records, Protocol):
    """What else is asked of a host. `fronts`: where its page answers while a version serves."""

    link: Connection
    fronts: Fronts

    def versions(self) -> list[Version]:
        """The newest first; not one that failed."""

    def serving(self) -> str:
        """The version that the proxy leads to; empty if there is none."""

    def present_front(self) -> Front | None:
        """Where the proxy that is there answers."""

    def log(self, version: str, lines: int) -> list[str]:
        """Of a version, or (empty) of the last one that failed."""

    def follow(self, version: str) -> Iterator[str]:
        """The same as it grows."""

    def remove(self, version: str) -> None: ...

    def tidy(self, kept: list[Version]) -> None:
        """Remove what no version needs any more."""

    def clear(self, *, volumes: bool) -> str:
        """Remove all that is left when no version is; says where pictures and videos stay."""

    def certificate(self) -> str:
        """Of the authority that the proxy has made for itself, PEM."""


class NotAnswered(DeployError):
    """A host that lets us in did not say what it has; nothing was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(BAD_CHECK, message)


@dataclass(frozen=True)
class Looked:
    """What a check found; `choice` None: nothing fits the host."""

    facts: Facts
    choice: Choice | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Brought:
    """A version that is there and only has to be started; what had to be sent for it, and how large it is."""

    version: Version
    sent_bytes: int
    size_bytes: int


class SshHost(ABC):
    """See `remotes.base.Remote`. `login`: how to get there."""

    def __init__(self, address: str, login: Login) -> None:
        self.address = address
        self.login = login

    @abstractmethod
    def site(self, link: Connection, facts: Facts, front: Front) -> HostSite:
        """What the host can do; of the facts, only where things are is needed."""

    @abstractmethod
    def findings(self, facts: Facts, need: Need, order: Order) -> tuple[Finding, ...]:
        """What follows from the facts for this kind of host."""

    @abstractmethod
    def prepare(self, choice: Choice, images: Images) -> object:
        """What is done here before the host is touched; handed on to `bring`."""

    @abstractmethod
    def bring(self, site: HostSite, looked: Looked, prepared: object, images: Images, order: Order) -> Brought:
        """Have the version on the host. Raises `DeployError`."""

    def check(self, order: Order, images: Images) -> tuple[Finding, ...]:
        try:
            with Connection(self.login) as link:
                return self._look(link, order, images).findings
        except (Unreachable, NotAnswered) as error:
            return (Finding("ssh", PROBLEM, error.message, "; ".join(error.hints)),)

    def plan(self, order: Order, images: Images) -> str:
        with self._connected() as link:
            looked, choice = self._good(link, order, images)
            site = self.site(link, looked.facts, order.front)
            serving = site.serving()
            chosen, reason = strategy(order.strategy, looked.facts.gpus, choice.needed_bytes)
            return json.dumps(
                {
                    "target": self.address, "model": choice.model, "profile": choice.profile,
                    "strategy": chosen if serving else "first", "reason": reason if serving else "",
                    "serving": serving, "front": asdict(order.front),
                    "kept": [each.name for each in site.versions()][:KEPT],
                    "findings": [asdict(each) for each in looked.findings],
                },
                indent=2, ensure_ascii=False,
            )  # fmt: skip

    def deploy(self, order: Order, images: Images) -> Deployed:
        times = [time.monotonic()]
        with self._connected() as link:
            looked, choice = self._good(link, order, images)
            times.append(time.monotonic())
            prepared = self.prepare(choice, images)
            times.append(time.monotonic())
            site = self.site(link, looked.facts, order.front)
            with ledger.locked(site, breaks=order.breaks_lock):
                brought = self.bring(site, looked, prepared, images, order)
                times.append(time.monotonic())
                done = self._serve(site, choice, order, brought.version)
            times.append(time.monotonic())
        names = ("check_s", "make_s", "send_s", "serve_s")
        pairs = zip(names, itertools.pairwise(times), strict=True)
        seconds = {name: round(end - start, 2) for name, (start, end) in pairs}
        return replace(done, sent_bytes=brought.sent_bytes, size_bytes=brought.size_bytes, figures=seconds)

    def status(self) -> Status:
        with self._connected() as link:
            site = self._present(link)
            serving, listed = site.serving(), ledger.releases(site)
            kept = tuple(each.name for each in site.versions() if each.name != serving)
            if not serving:
                return Status(self.address, "absent", kept=kept, releases=listed)
            answer = site.readiness(serving)
            running, queued = rollout.jobs(answer)
            state = "ready" if answer.status == 200 else "loading" if site.life(serving).runs else "stopped"
            return Status(self.address, state, serving, self._url(site.fronts.wanted), running, queued, kept, listed)

    def logs(self, *, follows: bool, failed: bool) -> Iterator[str]:
        with self._connected() as link:
            site = self._present(link)
            version = site.serving()
            if not (failed or version):
                raise JingxiangError(tr("{address}: nothing is deployed there", address=self.address))
            version = "" if failed else version
            yield from site.follow(version) if follows else site.log(version, LOG_LINES)

    def rollback(self, order: Order, version: str) -> Deployed:
        with self._connected() as link, self._locked(link, order) as site:
            serving = site.serving()
            kept = {each.name: each for each in site.versions() if each.name != serving}
            if version and version not in kept:
                raise UnknownName("version", version, kept, where=self.address)
            if not kept:
                raise JingxiangError(tr("{address}: keeps no other version", address=self.address))
            chosen = kept[version] if version else self._before(site, kept)
            return self._serve(site, None, order, chosen, how="rollback")

    def destroy(self, order: Order, *, volumes: bool) -> None:
        with self._connected() as link, self._locked(link, order) as site:
            versions = site.versions()
            for each in versions:
                rollout.let_finish(site, each.name, FINISH_S)
                site.remove(each.name)
            left = site.clear(volumes=volumes)
            count = len(versions)
            text = (
                tr("{count} versions, and all pictures, videos and models", count=count)
                if volumes
                else tr("{count} versions; pictures, videos and models stay: {volume}", count=count, volume=left)
            )
            console.line("removed", text)

    # --- steps ---

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        with contextlib.ExitStack() as stack:
            try:
                link = stack.enter_context(Connection(self.login))
            except Unreachable as error:
                raise DeployError(BAD_CHECK, error.message, error.hints) from error
            yield link

    def _facts(self, link: Connection, order: Order) -> Facts:
        now = time.time()
        ports = " ".join(map(str, host_check.ports(order.front)))
        return host_facts.facts(self._said(link, host_facts.SCRIPT, ports, order.registry.partition("/")[0]), now_s=now)

    def _said(self, link: Connection, script: str, *arguments: str) -> str:
        done = link.repeat(script, *arguments, timeout_s=FACTS_S)
        if done.code:
            raise NotAnswered(tr("{host}: what it has could not be asked: {reason}", host=self.login.host,
                                 reason=done.tail or done.code))  # fmt: skip
        return done.stdout

    def _look(self, link: Connection, order: Order, images: Images) -> Looked:
        facts = self._facts(link, order)
        try:
            choice = images.choose(facts.gpus)
            need = Need(choice.profile, choice.needed_bytes, choice.weights_bytes)
        except NoneFits as error:
            choice, need = None, Need(None, problem=error.message, fix=", ".join(error.hints))
        return Looked(facts, choice, self.findings(facts, need, order))

    def _good(self, link: Connection, order: Order, images: Images) -> tuple[Looked, Choice]:
        """A check in which nothing is in the way. Raises `NotReady`, after showing all of it."""
        looked = self._look(link, order, images)
        if looked.choice is None or has_problem(looked.findings):
            findings.show(looked.findings)
            raise NotReady(self.address, looked.findings)
        count = sum(each.state == OK for each in looked.findings)
        passed = tr("{count} checks passed", count=count)
        console.line("check", f"{self.login.host}: {host_check.summary(looked.facts)}: {passed}")
        return looked, looked.choice

    def _present(self, link: Connection) -> HostSite:
        """With the front that is there."""
        site = self._there(link)
        site.fronts.wanted = site.present_front() or site.fronts.wanted
        return site

    def _there(self, link: Connection) -> HostSite:
        facts = host_facts.facts(self._said(link, host_facts.SHORT), now_s=time.time())
        return self.site(link, facts, Order().front)

    @contextlib.contextmanager
    def _locked(self, link: Connection, order: Order) -> Iterator[HostSite]:
        with ledger.locked(self._there(link), breaks=order.breaks_lock):
            yield self._present(link)

    def _serve(
        self, site: HostSite, choice: Choice | None, order: Order, wanted: Version, how: str = "deploy"
    ) -> Deployed:
        """From what serves to `wanted`. `choice`: what that was made of, if it was made now."""
        old, front, present = site.serving(), site.fronts.wanted, site.present_front()
        if front.public and not wanted.settings.passwords:
            text = tr("{version} has no password, and the page is public: deploy again instead", version=wanted.name)
            raise UsageError(text)
        self._clear_strays(site, {old, wanted.name})
        site.fronts.present = present
        if old == wanted.name and site.life(old).runs:
            if not rollout.is_finishing(site.readiness(old)):
                rollout.again(site, Step(self.address, old, old, order.timeout_s, FINISH_S), site.fronts.restore)
                console.line("switch", tr("{version} serves already", version=old))
                return Deployed(old, self._url(front), "none", self._hint(front))
            rollout.let_finish(site, old, FINISH_S)  # whoever told it so was cut off
        if old == wanted.name or all(each.name != old for each in site.versions()):
            old = ""
        site.fronts.before = old
        cards = host_facts.cards(self._said(site.link, host_facts.FREE))  # now: sending takes a while
        chosen, reason = strategy(order.strategy, cards, _needed(wanted, choice, cards))
        if old:
            verb = tr("blue/green") if chosen == BLUE_GREEN else tr("recreate")
            console.line("switch", tr("{strategy}: {reason}", strategy=verb, reason=reason))
        rollout.roll(site, Step(self.address, old, wanted.name, order.timeout_s, FINISH_S), chosen)
        # It serves: what goes wrong from now on does not change that.
        with self._warned(site, wanted.name):
            ledger.note(site, wanted.name, wanted.image, how)
        with self._warned(site, wanted.name):
            if old and chosen == BLUE_GREEN:
                rollout.let_finish(site, old, FINISH_S)
            self._prune(site, wanted.name)
            self._check_from_here(site)
        return Deployed(wanted.name, self._url(front), chosen if old else "first", self._hint(front))

    @contextlib.contextmanager
    def _warned(self, site: HostSite, serves: str) -> Iterator[None]:
        try:
            yield
        except JingxiangError as error:
            console.warn(tr("{place} serves; what was to be done after that failed: {reason}",
                            place=site.place(serves), reason=error.message))  # fmt: skip

    def _clear_strays(self, site: HostSite, expected: set[str]) -> None:
        """Versions of somebody who was cut off while deploying: that run without being led to, or were never ready."""
        for each in site.versions():
            if each.name not in expected:
                rollout.let_finish(site, each.name, FINISH_S)
                if not each.served:
                    site.remove(each.name)

    def _before(self, site: HostSite, kept: dict[str, Version]) -> Version:
        """The one that served last before the one that serves."""
        order = [each.version for each in reversed(ledger.releases(site)) if each.version in kept]
        return kept[order[0]] if order else next(iter(kept.values()))

    def _prune(self, site: HostSite, serving: str) -> None:
        """Keep the last versions; what they alone needed goes with the others."""
        versions = sorted(site.versions(), key=lambda each: each.name != serving)
        for each in versions[KEPT:]:
            site.remove(each.name)
        site.tidy(versions[:KEPT])

    def _url(self, front: Front) -> str:
        if not front.public:
            return f"http://127.0.0.1:{front.port}"
        host = front.domain or hostname(self.login)
        shown = f"[{host}]" if ":" in host else host
        return f"https://{shown}" if front.port == proxy_plan.HTTPS else f"https://{shown}:{front.port}"

    def _hint(self, front: Front) -> str:
        return "" if front.public else f"ssh -L {front.port}:127.0.0.1:{front.port} {self.login.shown}"

    def _check_from_here(self, site: HostSite) -> None:
        """As whoever opens the page gets there. It is healthy already, so what is in the way lies between."""
        front = site.fronts.wanted
        if not front.public:
            site.link.restore()
            status = get(site.link.forward(f"127.0.0.1:{front.port}"), "/healthz").status
        else:
            own = "" if proxy_plan.is_domain(front.domain) else site.certificate()
            status = _over_tls(front.domain or hostname(self.login), front.port, own)
        if status != 200:
            console.warn(
                tr("{url} is healthy on the host, but does not answer from here: look at the security group and the "
                   "firewall for port {port}", url=self._url(front), port=front.port)
            )  # fmt: skip


def _needed(wanted: Version, choice: Choice | None, cards: Gpus) -> int:
    """GPU memory that a version takes; of one of which only the container is known, as much as there is."""
    if choice:
        return choice.needed_bytes
    return max((card.memory_bytes for card in cards.cards), default=1) if wanted.settings.gpus else 0


def _over_tls(host: str, port: int, own: str) -> int:
    """Status of /healthz; 0 without an answer, or with a certificate that is not to be trusted. `own`: PEM of the
    authority that the host has made for itself."""
    try:
        context = ssl.create_default_context(cadata=own or None)
        with contextlib.closing(HTTPSConnection(host, port, timeout=FROM_HERE_S, context=context)) as connection:
            connection.request("GET", "/healthz")
            return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
