"""jingxiang.remotes.rollout, on a site that is made up: what happens in which order, and what serves in the end"""

from __future__ import annotations

import json

import pytest

from jingxiang.deploy_plan import BLUE_GREEN, DOWN, RECREATE, RESTORED, DeployError
from jingxiang.errors import JingxiangError
from jingxiang.remotes import rollout
from jingxiang.remotes.rollout import Failed, Life, Step, roll
from jingxiang.remotes.ssh import Answer, Unreachable
from tests.peers.memory_site import LOADING, READY, MemorySite, Version


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LOOK_S", 0.0)


def step(old: str = "old", ready_s: float = 0.0) -> Step:
    return Step("ssh://gpu-1", old, "new", ready_s, 60)


def running() -> Version:
    return Version(runs=True)


def failed(site: MemorySite, strategy: str, old: str = "old") -> DeployError:
    with pytest.raises(DeployError) as caught:
        roll(site, step(old), strategy)
    return caught.value


def test_blue_green_leads_to_the_new_one_while_the_old_one_runs() -> None:
    site = MemorySite(old=running(), new=Version())
    roll(site, step(), BLUE_GREEN)
    assert site.done == ["start new", "lead new"]
    assert (site.leads, site.known["new"].settled, site.known["old"].runs) == ("new", True, True)


def test_recreate_lets_the_old_one_finish_first() -> None:
    site = MemorySite(old=running(), new=Version())
    roll(site, step(), RECREATE)
    assert site.done == ["finish old", "start new", "lead new"]


def test_the_first_one_needs_no_other() -> None:
    site = MemorySite(new=Version())
    roll(site, step(old=""), RECREATE)
    assert site.done == ["start new", "lead new"]


def test_it_has_to_be_ready_twice_in_a_row() -> None:
    site = MemorySite(new=Version(answers=[LOADING, READY, LOADING, READY, READY]))
    site.start("new")
    rollout.wait_ready(site, "new", 60)
    assert site.known["new"].answers == [READY]


@pytest.mark.parametrize("strategy", [BLUE_GREEN, RECREATE])
def test_one_that_ends_at_once_is_said_with_its_last_words_and_the_old_one_serves(strategy: str) -> None:
    site = MemorySite(old=running(), new=Version(code=1))
    error = failed(site, strategy)
    assert error.exit_code == RESTORED
    assert error.message.startswith("gpu-1, container new: new is not healthy: it ended with exit code 1")
    assert "line 29" in error.message
    assert "line 9\n" not in error.message, "only the last twenty"
    assert "still serving: old" in error.message
    assert error.hints[0] == "python3 tasks.py deploy-logs ssh://gpu-1 --failed"
    assert (site.leads, site.known["old"].runs) == ("old", True)


def test_in_blue_green_the_old_one_was_never_touched() -> None:
    site = MemorySite(old=running(), new=Version(code=1))
    failed(site, BLUE_GREEN)
    assert not any(each.endswith(" old") and not each.startswith("lead") for each in site.done)


def test_in_recreate_the_new_one_is_gone_before_the_old_one_starts_again() -> None:
    """There is no room for both."""
    site = MemorySite(old=running(), new=Version(answers=[LOADING]))
    error = failed(site, RECREATE)
    assert site.done == ["finish old", "start new", "end new", "start old", "lead old"]
    assert "it was not ready within 0 s: no weights" in error.message


def test_when_neither_gets_ready_nothing_serves() -> None:
    site = MemorySite(old=Version(runs=True, code=3), new=Version(code=1))
    error = failed(site, RECREATE)
    assert (error.exit_code, "nothing is serving now" in error.message) == (DOWN, True)


def test_when_the_host_is_gone_nobody_claims_to_know_what_serves() -> None:
    site = MemorySite(old=running(), new=Version())

    def lost(version: str) -> None:
        raise Unreachable("the connection was lost")

    site.lead = lost  # type: ignore[method-assign]
    error = failed(site, BLUE_GREEN)
    assert "what serves is not known" in error.message
    assert error.hints[0] == "python3 tasks.py deploy-status ssh://gpu-1"


def test_the_first_one_that_fails_leaves_nothing() -> None:
    error = failed(MemorySite(new=Version(code=3)), BLUE_GREEN, old="")
    assert (error.exit_code, "exit code 3" in error.message) == (DOWN, True)


def test_a_proxy_that_does_not_follow_is_led_back() -> None:
    site = MemorySite(old=running(), new=Version())
    site.refuses = "new"
    assert "new could not be led to: it is broken" in failed(site, BLUE_GREEN).message
    assert site.done == ["start new", "lead new", "lead old", "end new"]


def test_ctrl_c_brings_the_old_one_back_and_stays_ctrl_c() -> None:
    site = MemorySite(old=running(), new=Version())

    def interrupted(version: str) -> Answer:
        if version == "new":
            raise KeyboardInterrupt
        return READY

    site.readiness = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        roll(site, step(), RECREATE)
    assert (site.leads, site.known["old"].runs) == ("old", True)


def test_one_that_was_told_to_finish_is_not_led_to_but_started_again() -> None:
    """An interrupt comes while it is at its last video: it still runs then, but not for long."""
    site = MemorySite(old=Version(runs=True, ends_after=3), new=Version())
    lives = site.life
    interrupts = [True]

    def life(version: str) -> Life:
        if version == "old" and site.known["old"].finishes and interrupts:
            interrupts.pop()
            raise KeyboardInterrupt
        return lives(version)

    site.life = life  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        roll(site, step(), RECREATE)
    assert site.done == ["finish old", "end new", "start old", "lead old"], "told once, and waited for"
    assert (site.leads, site.known["old"].runs, site.known["old"].settled) == ("old", True, True)


def test_one_that_was_to_be_told_but_was_not_is_led_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes before the word does."""
    monkeypatch.setattr(rollout, "HEARD_S", 0.0)
    site = MemorySite(old=running(), new=Version())

    def interrupted(version: str) -> None:
        raise KeyboardInterrupt

    site.finish = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        roll(site, step(), RECREATE)
    assert (site.done, site.leads, site.known["old"].runs) == (["lead old", "end new"], "old", True)


def test_one_that_somebody_else_has_told_is_not_told_again() -> None:
    """A second time would end it at once."""
    site = MemorySite(old=Version(runs=True, finishes=True, ends_after=2), new=Version(code=1))
    failed(site, RECREATE)
    assert site.done == ["start new", "end new", "start old", "lead old"]


def test_one_that_is_about_to_be_started_again_is_told_so_that_it_is_not() -> None:
    site = MemorySite(old=Version(code=137))
    rollout.let_finish(site, "old", 60)
    assert site.done == ["finish old"]


def test_a_new_one_that_does_not_end_keeps_nobody_from_the_old_one(capsys: pytest.CaptureFixture[str]) -> None:
    site = MemorySite(old=running(), new=Version(code=1))

    def stuck(version: str) -> None:
        raise JingxiangError("the engine does not answer")

    site.end = stuck  # type: ignore[method-assign]
    for strategy in (BLUE_GREEN, RECREATE):
        assert failed(site, strategy).exit_code == RESTORED
        assert "container new: it could not be ended: the engine does not answer" in capsys.readouterr().err


def test_one_that_serves_already_is_led_to_again_and_back_when_that_fails() -> None:
    site = MemorySite(same=running())
    same = Step("ssh://gpu-1", "same", "same", 60, 60)
    rollout.again(site, same, lambda: None)
    assert (site.done, site.known["same"].settled) == (["lead same"], True)
    site.refuses = "same"

    def restore() -> None:
        site.done.append("restore")
        site.refuses = ""

    with pytest.raises(DeployError) as caught:
        rollout.again(site, same, restore)
    assert caught.value.exit_code == RESTORED
    assert site.done == ["lead same", "lead same", "restore", "lead same"]
    assert site.known["same"].runs


def test_one_that_serves_already_and_is_not_ready_is_said_with_its_last_words() -> None:
    site = MemorySite(same=Version(runs=True, answers=[LOADING]))
    with pytest.raises(DeployError, match="it was not ready within 0 s: no weights") as caught:
        rollout.again(site, Step("ssh://gpu-1", "same", "same", 0, 60), lambda: None)
    assert caught.value.exit_code == DOWN
    assert "line 29" in caught.value.message


def test_an_address_in_a_hint_can_be_pasted() -> None:
    error = rollout.failure(Step("k8s://a/b?gpus=1&x=2", "", "new", 0, 60), Failed("no", []), "")
    assert error.hints[0] == "python3 tasks.py deploy-logs 'k8s://a/b?gpus=1&x=2' --failed"


def test_one_that_does_not_finish_in_time_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    site = MemorySite(old=Version(runs=True, ends_after=10**9))
    rollout.let_finish(site, "old", 0.0)
    assert site.done == ["finish old", "end old"]
    assert "its jobs are begun again" in capsys.readouterr().err


def test_how_many_videos_are_made_is_said_while_it_finishes(capsys: pytest.CaptureFixture[str]) -> None:
    busy = Answer(200, {}, json.dumps({"running": 2, "queued": 1}).encode())
    rollout.let_finish(MemorySite(old=Version(runs=True, answers=[busy])), "old", 60)
    assert "old finishes 2 videos" in capsys.readouterr().err


def test_secrets_in_last_words_are_hidden() -> None:
    text = rollout.failure(step(), Failed("no", ["token=hf_abcdefghijklmnopqrstuvwxyz"]), "").message
    assert "hf_abc" not in text
