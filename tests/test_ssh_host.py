"""jingxiang.remotes.ssh_host, on a host that is made up: what serves in the end, and what is said of it"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import pytest

from jingxiang import host_facts
from jingxiang.container_plan import Settings
from jingxiang.deploy_plan import BLUE_GREEN, RESTORED, Deployed, DeployError, Front, Order
from jingxiang.errors import JingxiangError
from jingxiang.findings import PROBLEM, Finding
from jingxiang.host_check import Need
from jingxiang.host_facts import Facts
from jingxiang.remotes import rollout
from jingxiang.remotes.base import Choice, Images
from jingxiang.remotes.ssh import Connection, Login, Unreachable
from jingxiang.remotes.ssh_host import Brought, Fronts, HostSite, Looked, NotAnswered, SshHost
from jingxiang.remotes.ssh_host import Version as Listed
from tests.peers.images import Versions
from tests.peers.memory_site import MemorySite, Version

PRESENT = Front(7860)
CARD = "NVIDIA L20, 550.90.07, 46068, {free}, 8.9"


class Site(MemorySite):
    """See `ssh_host.HostSite`. `full`: writing the list of releases fails."""

    host = "gpu-1"
    link = cast(Connection, None)

    def __init__(self, **versions: Version) -> None:
        super().__init__(**versions)
        self.fronts = Fronts(PRESENT)
        self.led: list[tuple[str, Front]] = []
        self.held = self.listed = ""
        self.full = False
        self.taken: Front | None = None

    def lead(self, version: str) -> None:
        front = self.fronts.of(version)
        self.led.append((version, front))
        if front == self.taken:
            raise JingxiangError("port is already allocated")
        super().lead(version)

    def versions(self) -> list[Listed]:
        settings = Settings(gpus=True, passwords=False)
        return [Listed(name, name, settings, each.runs, 0, served=True) for name, each in self.known.items()]

    def serving(self) -> str:
        return self.leads

    def present_front(self) -> Front | None:
        return PRESENT

    def log(self, version: str, lines: int) -> list[str]:
        return []

    def follow(self, version: str) -> Iterator[str]:
        yield from ()

    def remove(self, version: str) -> None:
        self.done.append(f"remove {version}")

    def tidy(self, kept: list[Listed]) -> None:
        self.done.append("tidy")

    def clear(self, *, volumes: bool) -> str:
        return ""

    def certificate(self) -> str:
        return ""

    def hold(self, owner: str) -> str:
        self.held = self.held or owner
        return self.held

    def let_go(self, owner: str) -> None:
        self.held = ""

    def releases(self) -> str:
        return self.listed

    def write_releases(self, text: str) -> None:
        if self.full:
            raise JingxiangError("no space left on device")
        self.done.append("note")
        self.listed = text


class Host(SshHost):
    """`free`: MiB of its card that are free, each time that it is asked."""

    def __init__(self, site: Site, *free: int) -> None:
        super().__init__("ssh://gpu-1", Login("gpu-1"))
        self.made, self.free, self.problem = site, list(free or (45000,)), ""

    def site(self, link: Connection, facts: Facts, front: Front) -> HostSite:
        self.made.fronts.wanted = front
        return self.made

    def findings(self, facts: Facts, need: Need, order: Order) -> tuple[Finding, ...]:
        return ()

    def prepare(self, choice: Choice, images: Images) -> object:
        return None

    def bring(self, site: HostSite, looked: Looked, prepared: object, images: Images, order: Order) -> Brought:
        return Brought(self.made.versions()[-1], 1, 2)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        yield cast(Connection, None)

    def _said(self, link: Connection, script: str, *arguments: str) -> str:
        free = self.free.pop(0) if len(self.free) > 1 else self.free[0]
        return f"{host_facts.SECTION}gpu\n{CARD.format(free=free)}\n"

    def _check_from_here(self, site: HostSite) -> None:
        if self.problem:
            raise Unreachable(self.problem)


def deploy(host: Host, order: Order | None = None) -> Deployed:
    return host.deploy(order or Order(), Versions())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LOOK_S", 0.0)


def test_that_it_serves_is_written_down_before_anything_else_is_done() -> None:
    site = Site(old=Version(runs=True), new=Version())
    assert deploy(Host(site)).version == "new"
    assert site.done == ["start new", "lead new", "note", "finish old", "tidy"]
    assert '"version": "new"' in site.listed


def test_what_fails_after_the_switch_is_said_and_does_not_make_a_failure_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = Site(old=Version(runs=True), new=Version())
    site.full = True
    host = Host(site)
    host.problem = "the connection was lost"
    assert deploy(host).version == "new"
    said = capsys.readouterr().err
    for reason in ("no space left on device", "the connection was lost"):
        assert f"gpu-1, container new serves; what was to be done after that failed: {reason}" in said
    assert site.held == ""


@pytest.mark.parametrize(("before", "now", "chosen"), [(45000, 10, "recreate"), (0, 45000, BLUE_GREEN)])
def test_the_memory_that_is_free_when_it_is_sent_decides(before: int, now: int, chosen: str) -> None:
    site = Site(old=Version(runs=True), new=Version())
    needed = 20 << 30
    host = Host(site, before, now)
    images = Versions()
    images.choose = lambda cards: Choice("m", "cuda12", needed, 0)  # type: ignore[method-assign]
    assert host.deploy(Order(), images).strategy == chosen


def test_one_that_serves_already_comes_back_where_it_was_when_it_cannot_be_led_to_elsewhere() -> None:
    site = Site(same=Version(runs=True))
    site.taken = Front(8000)
    with pytest.raises(DeployError, match="port is already allocated") as caught:
        deploy(Host(site), Order(front=Front(8000)))
    assert caught.value.exit_code == RESTORED
    assert site.led == [("same", Front(8000)), ("same", PRESENT)]
    assert "still serving: same" in caught.value.message


def test_one_that_serves_already_and_was_told_to_end_is_started_again() -> None:
    """By somebody who was cut off in the middle of `recreate`."""
    site = Site(same=Version(runs=True, finishes=True, ends_after=3))
    assert deploy(Host(site)).version == "same"
    assert site.done == ["start same", "lead same", "note", "tidy"]
    assert site.known["same"].runs


def test_a_host_that_does_not_answer_is_not_one_without_docker() -> None:
    host = Host(Site(new=Version()))

    def silent(link: Connection, script: str, *arguments: str) -> str:
        raise NotAnswered("gpu-1: what it has could not be asked: ssh: no answer within 180 s")

    host._said = silent  # type: ignore[method-assign]
    with pytest.raises(NotAnswered) as caught:
        deploy(host)
    assert caught.value.exit_code == 2


def test_a_check_says_so_as_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jingxiang.remotes.ssh_host.Connection", lambda login: contextlib.nullcontext())
    host = Host(Site())

    def silent(link: Connection, script: str, *arguments: str) -> str:
        raise NotAnswered("no answer")

    host._said = silent  # type: ignore[method-assign]
    (found,) = host.check(Order(), Versions())
    assert (found.state, found.text) == (PROBLEM, "no answer")
