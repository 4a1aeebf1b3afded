"""app.sessions"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import pytest
from itsdangerous import TimestampSigner

from app.access import Access, User
from app.sessions import MOST_S, Sessions

ACCESS = Access({"li": "first-password", "王小明": "second-password"})


@pytest.fixture(scope="module")
def sessions() -> Sessions:
    return Sessions(ACCESS)


def test_a_session_is_its_user_s(sessions: Sessions) -> None:
    assert sessions.user(sessions.begun("li")) == User("li", is_in_charge=True)
    assert sessions.user(sessions.begun("王小明")) == User("王小明", is_in_charge=False)


def test_a_session_is_fit_for_a_cookie_and_holds_no_password(sessions: Sessions) -> None:
    session = sessions.begun("王小明")
    assert set(session) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert b"password" not in b"".join(base64.urlsafe_b64decode(part + "==") for part in session.split("."))


def test_servers_with_the_same_passwords_know_each_other_s_also_after_a_restart(sessions: Sessions) -> None:
    others = Access({"li": "another-password", "王小明": "second-password", "new": "third-password"})
    assert Sessions(others).user(sessions.begun("王小明")) == User("王小明", is_in_charge=False)


def test_a_new_password_ends_the_sessions(sessions: Sessions) -> None:
    session = sessions.begun("li")
    assert Sessions(Access({"li": "another-password"})).user(session) is None
    assert Sessions(Access({"wang": "first-password"})).user(session) is None


@pytest.mark.parametrize(
    "damaged",
    [
        lambda session: "",
        lambda session: "..",
        lambda session: session[:-1],
        lambda session: session + "A",
        lambda session: session.replace(".", ".A", 1),
        lambda session: base64.urlsafe_b64encode("王小明".encode()).decode() + session[session.index(".") :],
        lambda session: base64.urlsafe_b64encode(b"nobody").decode() + session[session.index(".") :],
        lambda session: "é" + session,
        lambda session: "_w" + session[session.index(".") :],  # no UTF-8
        lambda session: session.partition(".")[0],
        lambda session: TimestampSigner("first-password").sign(session.partition(".")[0]).decode(),
    ],
)
def test_what_was_not_signed_here_is_no_session(sessions: Sessions, damaged: Callable[[str], str]) -> None:
    assert sessions.user(damaged(sessions.begun("li"))) is None


def test_it_ends_after_thirty_days(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    session, now = sessions.begun("li"), time.time()
    monkeypatch.setattr(time, "time", lambda: now + MOST_S - 5)
    assert sessions.user(session) is not None
    monkeypatch.setattr(time, "time", lambda: now + MOST_S + 5)
    assert sessions.user(session) is None
