"""jingxiang.places"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang.places import Places, here

ROOT = Path(__file__).resolve().parent.parent


def test_everything_follows_from_the_checkout_and_the_home() -> None:
    places = Places(Path("/checkout"), Path("/home"))
    assert (places.locks, places.current) == (Path("/checkout/envs/locks"), Path("/checkout/.env"))
    assert (places.environments, places.models, places.outputs) == (
        Path("/home/environments"), Path("/home/models"), Path("/home/outputs"),
    )  # fmt: skip


def test_the_home_lies_in_the_checkout_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JINGXIANG_HOME", raising=False)
    assert here() == Places(ROOT, ROOT / ".jingxiang")


def test_an_empty_choice_of_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINGXIANG_HOME", "")
    assert here() == Places(ROOT, ROOT / ".jingxiang")


def test_the_home_may_be_on_another_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JINGXIANG_HOME", str(tmp_path / "fast"))
    assert here() == Places(ROOT, tmp_path / "fast")


def test_a_tilde_in_the_home_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JINGXIANG_HOME", "~/jx")
    assert here().home == tmp_path / "jx"


def test_a_relative_home_is_taken_from_where_the_user_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JINGXIANG_HOME", "jx")
    assert here().home == tmp_path / "jx"
