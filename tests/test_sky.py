"""jingxiang.remotes.sky, with a program in the place of SkyPilot's; tests/e2e/test_sky.py has the real one"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jingxiang import targets
from jingxiang.deploy_plan import DOWN, RESTORED, DeployError, Front, NotReady, Order
from jingxiang.findings import NOTE, PROBLEM, Finding
from jingxiang.remotes.base import Choice
from jingxiang.remotes.sky import Sky
from jingxiang.targets import SkyTarget
from tests.peers.images import Versions

ADDRESS = "sky://runpod?gpu=L4:1&media=s3://bucket/videos"
PROGRAM = """\
#!{python}
import json, sys
job = json.load(sys.stdin)
event = {ends} if job["action"] == "deploy" else {{"event": "result", "known": True}}
print(json.dumps(event))
sys.exit(event["event"] == "error")
"""


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    monkeypatch.delenv("JINGXIANG_JOBS", raising=False)
    monkeypatch.setenv("JINGXIANG_HOME", str(tmp_path / "home"))
    (tmp_path / "passwords").write_text("li:correct-horse\n")
    return Order(front=Front(443, public=True), passwords=tmp_path / "passwords", agrees=True)


def remote(tmp_path: Path, **ends: object) -> Sky:
    """Its program ends a deployment in that way, and finds no fault."""
    target = targets.parse(ADDRESS)
    assert isinstance(target, SkyTarget)
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable, ends=json.dumps(ends)))
    program.chmod(0o755)
    return Sky(target, ADDRESS, lambda _: program)


@pytest.mark.parametrize(("serving", "old", "code", "words"), [
    ([1], 1, RESTORED, "still serving: 1"),
    ([1], 0, 1, "it serves all the same, with the replicas that are ready"),
    ([], 0, DOWN, "nothing is serving; its machines still cost money"),
])  # fmt: skip
def test_what_serves_after_a_failure_is_said(
    order: Order, tmp_path: Path, serving: list[int], old: int, code: int, words: str
) -> None:
    ends = {"event": "error", "kind": "unhealthy", "text": "FAILED", "serving": serving, "old": old}
    with pytest.raises(DeployError) as caught:
        remote(tmp_path, **ends).deploy(order, Versions())
    assert caught.value.exit_code == code
    assert caught.value.message == f"the new version is not healthy: FAILED\n       {words}"
    assert caught.value.hints[1] == f"python3 tasks.py deploy-destroy '{ADDRESS}'"


class Svd(Versions):
    def choose(self, cards: object) -> Choice:
        return Choice("svd-xt", "cuda12", 1, 0)


def test_a_licence_is_accepted_here_before_machines_are_rented(order: Order, tmp_path: Path) -> None:
    found = remote(tmp_path)
    with pytest.raises(NotReady, match="licence"):
        found.deploy(order, Svd())
    assert "--accept-license" not in found.plan(order, Svd())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "licences").write_text("svd-xt\n")
    assert not [each for each in found.check(order, Svd()) if each.state == PROBLEM]
    assert "python3 tasks.py fetch svd-xt --accept-license" in found.plan(order, Svd())


def test_flags_that_mean_nothing_there_are_said(order: Order, tmp_path: Path) -> None:
    asked = Order("recreate", "auto", "registry.example/x", Front(8443, public=True), order.passwords)
    found = remote(tmp_path).check(asked, Versions())
    text = "of no use with this target: --strategy, --registry, --port"
    assert [each for each in found if each.subject == "flags"] == [Finding("flags", NOTE, text)]
