"""jingxiang.remotes.money"""

from __future__ import annotations

import io
import sys

import pytest

from jingxiang.deploy_plan import BAD_CHECK, DeployError, Order
from jingxiang.remotes.money import agreed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_somebody_agrees(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    agreed(Order(), "sky://aws", "9.5 CNY an hour")
    assert capsys.readouterr().err == "price    9.5 CNY an hour\nask      go on? [y/N]\n"


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_anything_else_is_a_no(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    with pytest.raises(DeployError, match="nothing was rented") as caught:
        agreed(Order(), "sky://aws", "9.5 CNY an hour")
    assert caught.value.exit_code == BAD_CHECK


def test_nobody_is_there_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(DeployError, match="--yes agrees to it"):
        agreed(Order(), "sky://aws", "9.5 CNY an hour")


def test_yes_has_answered(capsys: pytest.CaptureFixture[str]) -> None:
    agreed(Order(agrees=True), "sky://aws", "9.5 CNY an hour")
    assert capsys.readouterr().err == "price    9.5 CNY an hour\n"
