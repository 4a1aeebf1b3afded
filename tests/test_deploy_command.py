"""jingxiang.commands.deploy, with a target that is made up"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke.context import Context

from jingxiang import remotes
from jingxiang.commands import deploy as command
from jingxiang.commands.deploy import Source, order
from jingxiang.deploy_plan import Deployed, Front, NotReady, Order, Release, Status
from jingxiang.errors import UsageError
from jingxiang.findings import NOTE, OK, PROBLEM, Finding
from jingxiang.gpu import Gpus
from jingxiang.places import Places, here
from jingxiang.profiles import NoneFits
from jingxiang.remotes.base import Images, Remote
from tests.peers.nvml import K80, L20, T4

ADDRESS = "ssh://gpu-1"
RELEASE = Release("7c1d09e2", "sha256:7c1d09e2", "2026-11-28T04:46:11Z", "li@desk", "deploy")


class MemoryRemote:
    """See `Remote`. What was asked of it is in `asked`."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.findings: tuple[Finding, ...] = (
            Finding("docker", OK, "engine 27.5.1"),
            Finding("clock", NOTE, "400 s off"),
        )
        self.found = Status(ADDRESS, "ready", "7c1d09e2", "http://127.0.0.1:7860", 1, 2, ("d6db540e",), (RELEASE,))

    def check(self, order: Order, images: Images) -> tuple[Finding, ...]:
        self.asked.append(order)
        return self.findings

    def plan(self, order: Order, images: Images) -> str:
        return "the plan"

    def deploy(self, order: Order, images: Images) -> Deployed:
        self.asked.append(order)
        return Deployed("7c1d09e2", "http://127.0.0.1:7860", "bluegreen", "ssh -L 7860:127.0.0.1:7860 gpu-1", 3, 10)

    def status(self) -> Status:
        return self.found

    def logs(self, *, follows: bool, failed: bool) -> Iterator[str]:
        yield from (f"follows {follows}", f"failed {failed}")

    def rollback(self, order: Order, version: str) -> Deployed:
        self.asked.append(version)
        return Deployed(version, "http://127.0.0.1:7860", "recreate")

    def destroy(self, order: Order, *, volumes: bool) -> None:
        self.asked.append(volumes)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> MemoryRemote:
    found = MemoryRemote()
    monkeypatch.setattr(command, "_remote", lambda address: found)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(Places(here().root, tmp_path / "home", tmp_path / "store"))


def test_the_address_of_the_page_is_what_goes_to_stdout(
    remote: MemoryRemote, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    command.deploy(ADDRESS, source, Order())
    said = capsys.readouterr()
    assert said.out == "http://127.0.0.1:7860\n"
    assert said.err == "ready    http://127.0.0.1:7860: ssh -L 7860:127.0.0.1:7860 gpu-1\n"
    command.deploy(ADDRESS, source, Order(), as_json=True)
    assert json.loads(capsys.readouterr().out)["sent_bytes"] == 3


def test_a_plan_changes_nothing(remote: MemoryRemote, source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    command.deploy(ADDRESS, source, Order(), plan=True)
    assert (capsys.readouterr().out, remote.asked) == ("the plan\n", [])


def test_a_check_fails_for_problems_and_not_for_notes(
    remote: MemoryRemote, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    command.check(ADDRESS, source, Order())
    remote.findings = (*remote.findings, Finding("port", PROBLEM, "7860 is taken by nginx (7)", "--port 7861"))
    with pytest.raises(NotReady) as caught:
        command.check(ADDRESS, source, Order(), as_json=True)
    assert caught.value.exit_code == 2
    assert remote.asked == [Order(), Order()]
    assert [each["state"] for each in json.loads(capsys.readouterr().out)["findings"]] == ["ok", "note", "problem"]


def test_a_check_takes_the_flags_that_change_what_is_checked(
    remote: MemoryRemote, source: Source, tmp_path: Path
) -> None:
    """Else one that needs a registry, or has to be public, never passed."""
    import tasks

    passwords = tmp_path / "passwords"
    passwords.write_text("li:correct horse\n")
    tasks.deploy_check(Context(), ADDRESS, registry="registry.example.com/video", public=True, domain="a.example.com",
                       password_file=str(passwords))  # fmt: skip
    (asked,) = remote.asked
    assert asked == order(
        registry="registry.example.com/video", public=True, domain="a.example.com", password_file=str(passwords)
    )


def test_status_says_what_serves_and_what_is_kept(remote: MemoryRemote, capsys: pytest.CaptureFixture[str]) -> None:
    command.status(ADDRESS)
    said = capsys.readouterr()
    assert said.out == "http://127.0.0.1:7860\n"
    assert said.err.splitlines() == [
        "serving  7c1d09e2, ready, 1 running, 2 waiting",
        "kept     d6db540e",
        "         2026-11-28T04:46:11Z  7c1d09e2  deploy  li@desk",
    ]
    command.status(ADDRESS, as_json=True)
    assert json.loads(capsys.readouterr().out)["releases"] == [RELEASE.to_json()]


def test_where_nothing_is_deployed_status_says_so(remote: MemoryRemote, capsys: pytest.CaptureFixture[str]) -> None:
    remote.found = Status(ADDRESS, "absent")
    command.status(ADDRESS)
    assert capsys.readouterr() == ("", "serving  nothing is deployed\n")


def test_words_are_handed_on(remote: MemoryRemote, capsys: pytest.CaptureFixture[str]) -> None:
    command.logs(ADDRESS, follows=True)
    assert capsys.readouterr().out == "follows True\nfailed False\n"
    command.rollback(ADDRESS, Order(), version="d6db540e")
    command.destroy(ADDRESS, Order(), volumes=True)
    assert remote.asked == ["d6db540e", True]


def test_the_port_is_that_of_https_where_others_reach_it(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("li:correct horse\n")
    assert order().front == Front(7860)
    assert order(port=8000).front == Front(8000)
    assert order(public=True, password_file=str(passwords)).front == Front(443, public=True)
    with pytest.raises(UsageError, match="absent: cannot be read"):
        order(password_file=str(tmp_path / "absent"))


def test_what_an_image_is_made_of_follows_from_the_card_of_the_host(source: Source) -> None:
    bare = source.choose(Gpus(()))
    assert (bare.model, bare.profile, bare.needed_bytes) == ("smoke", "cpu", 0)
    large = source.choose(Gpus((L20,)))
    assert (large.model, large.profile) == ("i2vgen-xl", "cuda12")
    assert 10 << 30 < large.needed_bytes < 46 << 30
    with pytest.raises(NoneFits):
        source.choose(Gpus((K80,)))
    with pytest.raises(NoneFits, match="driver 470"):
        source.choose(Gpus((T4,)))


@pytest.mark.parametrize("provider", [*remotes.PROVIDERS.values(), *remotes.CLOUDS.values()])
def test_each_kind_of_target_can_do_what_all_can(provider: str) -> None:
    module, _, name = provider.partition(":")
    made = getattr(__import__(f"jingxiang.remotes.{module}", fromlist=[name]), name)
    for wanted, function in inspect.getmembers(Remote, inspect.isfunction):
        if not wanted.startswith("_"):
            assert inspect.signature(getattr(made, wanted)) == inspect.signature(function), wanted
