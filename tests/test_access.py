"""app.access"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from app.access import Access, Login, User
from jingxiang.errors import UsageError

ACCESS = Access({"li": "first-password", "wang": "second-password"})


def authorized(header: str) -> User | None:
    login = Login.of(header)
    return ACCESS.authorized(login) if login is not None else None


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Bearer first-password", "li"),
        ("bearer  second-password ", "wang"),
        (basic("wang", "second-password"), "wang"),
        (basic("wang", "first-password"), None),
        (basic("nobody", ""), None),
        (basic("", "first-password"), None),
        ("Basic !!!", None),
        ("Basic 密码".encode().decode("latin-1"), None),
        ("Basic " + base64.b64encode(b"\xff\xfe").decode(), None),
        ("Bearer ", None),
        ("Bearer first-passwor", None),
        ("Digest first-password", None),
        ("first-password", None),
        ("", None),
    ],
)
def test_who_may_come_in(header: str, name: str | None) -> None:
    user = authorized(header)
    assert (user.name if user else None) == name


def test_a_password_of_any_letters_can_be_sent() -> None:
    access = Access({"li": "很长的密码很长的"})
    login = Login.of("Bearer 很长的密码很长的".encode().decode("latin-1"))
    assert login == Login(None, "很长的密码很长的")
    assert access.authorized(login) == access.user("li")


def test_the_first_name_is_in_charge() -> None:
    assert [ACCESS.user(name).is_in_charge for name in ("li", "wang", "nobody")] == [True, False, False]


def test_without_passwords_everybody_is() -> None:
    access = Access({})
    assert access.is_open
    assert access.user("li") == User("", is_in_charge=True)
    assert not access.allows("", "")
    assert access.authorized(Login(None, "")) is None


def test_a_made_password_is_another_each_time() -> None:
    made = [Access.made().passwords["jingxiang"] for _ in range(3)]
    assert len(set(made)) == 3
    assert min(map(len, made)) >= 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no line NAME:PASSWORD"),
        ("# only a comment\n\n", "has no line NAME:PASSWORD"),
        ("li:first-password\nwang\n", ":2: must be NAME:PASSWORD"),
        ("li:short\n" * 1 + "wang:short7\n", ":2: must be NAME:PASSWORD, with 8 characters or more in the password"),
        (":first-password\n", ":1: must be NAME:PASSWORD"),
        ("li:first-password\nwang:first-password\n", ":2: a name or password is there twice"),
        ("li:first-password\nli:second-password\n", ":2: a name or password is there twice"),
    ],
)
def test_a_file_without_passwords_is_wrong_use(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "passwords"
    file.write_text(text.replace("li:short\n", "li:long-enough\n"))
    file.chmod(0o600)
    with pytest.raises(UsageError, match=message) as caught:
        Access.read(file)
    assert "first-password" not in caught.value.message


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing: cannot be read: No such file or directory"):
        Access.read(tmp_path / "nothing")


def test_a_password_may_hold_colons_and_a_file_that_others_read_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "passwords"
    file.write_text("li:a:b:c:d:e\n密:很长的密码很长的\n")
    file.chmod(0o644)
    assert Access.read(file).passwords == {"li": "a:b:c:d:e", "密": "很长的密码很长的"}
    assert f"chmod 600 {file}" in capsys.readouterr().err
    file.chmod(0o600)
    Access.read(file)
    assert capsys.readouterr().err == ""
