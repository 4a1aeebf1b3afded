"""app.defaults, and the options that they are the defaults of"""

from __future__ import annotations

from pathlib import Path

import pytest

from app import defaults
from app.__main__ import _parser
from jingxiang.errors import UsageError

NAMES = ("MODEL", "HOST", "PORT", "OUTPUTS", "HOME", "DRAIN_S")


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"JINGXIANG_{name}", raising=False)


def options(*words: str) -> tuple[object, ...]:
    found = _parser().parse_args(words)
    return found.model, found.host, found.port, found.outputs, found.drain


@pytest.mark.parametrize("words", [[], ["serve"]])
def test_without_the_variables_it_is_the_smoke_model_on_this_machine_alone(words: list[str]) -> None:
    root = Path(__file__).resolve().parent.parent
    assert options(*words) == ("smoke", "127.0.0.1", 7860, root / ".jingxiang/outputs", 600.0)


@pytest.mark.parametrize("words", [[], ["serve"]])
def test_an_image_says_what_is_in_it_and_an_option_comes_first(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    chosen = {"MODEL": "i2vgen-xl", "HOST": "0.0.0.0", "PORT": "80", "OUTPUTS": "/outputs", "DRAIN_S": "30"}
    for name, value in chosen.items():
        monkeypatch.setenv(f"JINGXIANG_{name}", value)
    assert options(*words) == ("i2vgen-xl", "0.0.0.0", 80, Path("/outputs"), 30.0)
    own = ["--model", "svd-xt", "--host", "::1", "--port", "0", "--outputs", "/o", "--drain", "1.5"]
    assert options(*words, *own) == ("svd-xt", "::1", 0, Path("/o"), 1.5)


def test_every_action_takes_its_model_and_folders_from_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINGXIANG_MODEL", "i2vgen-xl")
    monkeypatch.setenv("JINGXIANG_HOME", "/opt/jingxiang")
    for words in (["generate", "--image", "a", "--prompt", "b", "--out", "c.mp4"], ["worker"], ["doctor"]):
        found = _parser().parse_args(words)
        assert (found.model, found.models) == ("i2vgen-xl", Path("/opt/jingxiang/models"))


def test_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = options()
    for name in NAMES:
        monkeypatch.setenv(f"JINGXIANG_{name}", "")
    assert options() == before


def test_the_variable_that_kubernetes_makes_for_a_service_of_our_name_is_not_a_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JINGXIANG_PORT", "tcp://10.96.0.17:80")
    assert defaults.port() == 7860


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "JINGXIANG_PORT must be a whole number, not 'http'"),
        ("PORT", "-1", "JINGXIANG_PORT must be a whole number, not '-1'"),
        ("DRAIN_S", "10m", "JINGXIANG_DRAIN_S must be seconds, not '10m'"),
        ("DRAIN_S", "nan", "JINGXIANG_DRAIN_S must be seconds, not 'nan'"),
        ("DRAIN_S", "-1", "JINGXIANG_DRAIN_S must be seconds, not '-1'"),
    ],
)
def test_what_cannot_be_used_is_said_by_the_variable_s_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"JINGXIANG_{name}", value)
    with pytest.raises(UsageError) as caught:
        _parser()
    assert caught.value.message == message


def test_what_listens_everywhere_is_asked_on_the_machine_itself() -> None:
    asked = [defaults.probed(host) for host in ("0.0.0.0", "::", "10.0.0.7")]
    assert asked == ["127.0.0.1", "::1", "10.0.0.7"]
