"""jingxiang.remotes.ledger, with a host that is made up, and with the shell that a host without docker has"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from jingxiang import env_plan
from jingxiang.deploy_plan import LOCKED, DeployError
from jingxiang.errors import JingxiangError
from jingxiang.remotes import ledger


class MemoryHost:
    """See `ledger.Records`. `refuses`: what it says instead of taking the lock, as a full disk does."""

    host = "gpu-1"

    def __init__(self) -> None:
        self.held = self.listed = self.refuses = ""

    def hold(self, owner: str) -> str:
        if self.refuses:
            raise JingxiangError(self.refuses)
        self.held = self.held or owner
        return self.held

    def let_go(self, owner: str) -> None:
        if owner in ("", self.held):
            self.held = ""

    def releases(self) -> str:
        return self.listed

    def write_releases(self, text: str) -> None:
        self.listed = text


class ShellHost(MemoryHost):
    """The scripts of `env_plan`, in a home of their own."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home

    def run(self, script: str, *arguments: str) -> str:
        done = subprocess.run(
            ["sh", "-c", script, "sh", *arguments], env={"HOME": str(self.home), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise JingxiangError(done.stderr.strip())
        return done.stdout

    def hold(self, owner: str) -> str:
        return self.run(env_plan.HOLD, owner).strip()

    def let_go(self, owner: str) -> None:
        self.run(env_plan.LET_GO, owner)


@pytest.fixture(params=["memory", "shell"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryHost:
    return MemoryHost() if request.param == "memory" else ShellHost(tmp_path)


def test_one_at_a_time_and_whoever_has_to_wait_is_told_for_whom(host: MemoryHost) -> None:
    with ledger.locked(host, breaks=False):
        said = f"gpu-1: {ledger.by()} deploys there since 20"
        with pytest.raises(DeployError, match=said) as caught, ledger.locked(host, breaks=False):
            raise AssertionError
        assert caught.value.exit_code == LOCKED
        with pytest.raises(DeployError), ledger.locked(host, breaks=False):
            raise AssertionError
    with ledger.locked(host, breaks=False):
        pass


def test_the_lock_is_given_back_whatever_happens(host: MemoryHost) -> None:
    for error in (SystemExit(143), KeyboardInterrupt(), JingxiangError("no")):
        with pytest.raises(type(error)), ledger.locked(host, breaks=False):
            raise error
    with ledger.locked(host, breaks=False):
        pass


def test_a_lock_that_was_broken_is_not_given_back_by_the_one_who_had_it(host: MemoryHost) -> None:
    with ledger.locked(host, breaks=False):
        colleague = ledger.locked(host, breaks=True)
        colleague.__enter__()
    with pytest.raises(DeployError), ledger.locked(host, breaks=False):
        raise AssertionError
    colleague.__exit__(None, None, None)
    with ledger.locked(host, breaks=False):
        pass


def test_a_lock_that_is_taken_twice_is_one_when_the_first_answer_was_lost(tmp_path: Path) -> None:
    host = ShellHost(tmp_path)
    assert [host.hold("{}"), host.hold("{}")] == ["{}", "{}"]


def test_a_disk_that_is_full_is_not_somebody_who_deploys() -> None:
    host = MemoryHost()
    host.refuses = "no space left on device"
    with pytest.raises(JingxiangError, match="no space left on device") as caught, ledger.locked(host, breaks=False):
        raise AssertionError
    assert not isinstance(caught.value, DeployError)


def test_a_home_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / ".jingxiang").write_text("")
    with pytest.raises(JingxiangError, match=r"cannot create directory|File exists|Not a directory"):
        ShellHost(tmp_path).hold("{}")


def test_nothing_is_made_by_giving_back_where_nothing_is(tmp_path: Path) -> None:
    ShellHost(tmp_path).let_go("")
    assert list(tmp_path.iterdir()) == []


def test_the_last_releases_are_kept_and_a_broken_list_is_an_empty_one() -> None:
    host = MemoryHost()
    for number in range(ledger.KEPT + 2):
        ledger.note(host, f"v{number}", "sha256:0", "deploy")
    assert [each.version for each in ledger.releases(host)] == [f"v{number}" for number in range(2, ledger.KEPT + 2)]
    assert set(json.loads(host.listed)[0]) == {"version", "image", "at", "by", "how"}
    for text in ("", "{", "[1]", '[{"version": "v"}]'):
        host.listed = text
        assert ledger.releases(host) == ()
