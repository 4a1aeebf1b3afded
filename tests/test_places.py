"""jingxiang.places"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang.places import Places, here

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user who has chosen nothing."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JINGXIANG_OUTPUTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))


def test_everything_follows_from_the_checkout_and_the_home() -> None:
    places = Places(Path("/checkout"), Path("/home"), Path("/store"))
    assert (places.locks, places.current) == (Path("/checkout/envs/locks"), Path("/checkout/.env"))
    assert (places.environments, places.models, places.outputs) == (
        Path("/home/environments"), Path("/home/models"), Path("/home/outputs"),
    )  # fmt: skip


def test_the_home_lies_in_the_checkout_and_the_store_in_the_users_cache_unless_chosen(tmp_path: Path) -> None:
    assert here() == Places(ROOT, ROOT / ".jingxiang", tmp_path / "user/.cache/jingxiang/store")


def test_an_empty_choice_of_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINGXIANG_HOME", "")
    assert here().home == ROOT / ".jingxiang"


def test_the_home_may_be_on_another_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JINGXIANG_HOME", str(tmp_path / "fast"))
    assert (here().root, here().home) == (ROOT, tmp_path / "fast")


def test_a_tilde_in_the_home_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JINGXIANG_HOME", "~/jx")
    assert here().home == tmp_path / "jx"


def test_a_relative_home_is_taken_from_where_the_user_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JINGXIANG_HOME", "jx")
    assert here().home == tmp_path / "jx"


def test_videos_may_go_somewhere_else_than_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JINGXIANG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JINGXIANG_OUTPUTS", str(tmp_path / "videos"))
    assert (here().home, here().outputs) == (tmp_path / "home", tmp_path / "videos")
    monkeypatch.setenv("JINGXIANG_OUTPUTS", "")
    assert here().outputs == tmp_path / "home/outputs"


def test_what_is_compiled_may_go_somewhere_else_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JINGXIANG_HOME", str(tmp_path / "home"))
    assert here().artifacts == here().baked == tmp_path / "home/artifacts"
    monkeypatch.setenv("JINGXIANG_ARTIFACTS", str(tmp_path / "videos/artifacts"))
    assert (here().artifacts, here().baked) == (tmp_path / "videos/artifacts", tmp_path / "home/artifacts")


@pytest.mark.parametrize(
    ("environment", "store"),
    [
        ({"JINGXIANG_STORE": "/fast/store"}, "/fast/store"),
        ({"JINGXIANG_STORE": "/fast/store", "XDG_CACHE_HOME": "/caches"}, "/fast/store"),
        ({"JINGXIANG_STORE": "", "XDG_CACHE_HOME": "/caches"}, "/caches/jingxiang/store"),
        ({"XDG_CACHE_HOME": "caches"}, "/user/.cache/jingxiang/store"),  # relative ones are to be ignored
        ({"JINGXIANG_HOME": "/fast/home"}, "/user/.cache/jingxiang/store"),
        ({"JINGXIANG_STORE": "~/store"}, "/user/store"),
    ],
)
def test_the_store_may_be_chosen_and_is_else_in_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], store: str
) -> None:
    monkeypatch.setenv("HOME", "/user")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert here().store == Path(store)
