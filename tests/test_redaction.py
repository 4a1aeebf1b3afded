"""jingxiang.redaction"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang.redaction import redact

HOME = Path("/home/li")
TOKEN = "AbCdEfGhIjKlMnOpQrStUvWx"  # long enough to be one, and of nobody


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("/home/li/.jingxiang: 3 GB free", "~/.jingxiang: 3 GB free"),
        ("writes to /home/li", "writes to ~"),
        ("'/home/li': no such file", "'~': no such file"),
        ("/home/li:/home/li/bin,(/home/li)", "~:~/bin,(~)"),
        ("/home/lily and /home/li2/x", "/home/lily and /home/li2/x"),
    ],
)
def test_the_home_folder_becomes_a_tilde(text: str, safe: str) -> None:
    assert redact(text, HOME) == safe


def test_a_user_of_the_homes_name_does_not_keep_the_password_in() -> None:
    assert redact("ssh://root:hunter2@gpu, file:///root/x", Path("/root")) == "ssh://…@gpu, file://~/x"


def test_the_home_is_the_users_own_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/wang")
    assert redact("/home/wang/x and /home/li/x") == "~/x and /home/li/x"


def test_a_home_at_the_root_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert redact("/: 3 GB free, /usr//bin") == "/: 3 GB free, /usr//bin"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("https://li:s3cret@mirror.example/simple", "https://…@mirror.example/simple"),
        ("https://s3cret@mirror.example/simple", "https://…@mirror.example/simple"),
        ("http://li:p%40ss@proxy.example:3128, then", "http://…@proxy.example:3128, then"),
        ("'socks5://li:s3cret@10.0.0.1'", "'socks5://…@10.0.0.1'"),
    ],
)
def test_who_logs_in_to_an_address_is_hidden(text: str, safe: str) -> None:
    assert redact(text, HOME) == safe


@pytest.mark.parametrize("start", ["hf_", "ghp_", "github_pat_", "pypi-", "ms-"])
def test_tokens_are_known_by_their_beginning(start: str) -> None:
    assert redact(f"with {start}{TOKEN}, denied", HOME) == "with …, denied"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("token=abc next", "token=… next"),
        ("Password: hunter2", "Password: …"),
        ("api_key = 12345 more", "api_key = … more"),
        ("Authorization: Bearer abc.def", "Authorization: …"),
        ("authorization: abc.def", "authorization: …"),
    ],
)
def test_what_is_called_a_secret_is_hidden(text: str, safe: str) -> None:
    assert redact(text, HOME) == safe


def test_a_basic_login_is_hidden_with_its_value() -> None:
    assert redact("Authorization: Basic bGk6aHVudGVyMg==", HOME) == "Authorization: …"


def test_a_secret_in_a_variables_name_is_known_too() -> None:
    assert redact("HF_TOKEN=abc next", HOME) == "HF_TOKEN=… next"


@pytest.mark.parametrize("name", ["MY_TOKEN", "REGISTRY_PASSWORD", "AWS_SECRET_ACCESS_KEY", "SOME_API_KEY", "apikey"])
def test_the_secrets_of_the_environment_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "correct-horse")
    assert redact("said correct-horse, twice: correct-horse", HOME) == "said …, twice: …"


def test_other_and_short_values_of_the_environment_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_EDITOR", "correct-horse")
    monkeypatch.setenv("MY_TOKEN", "horse")  # too short to be one, and its letters are in ordinary words
    assert redact("correct-horse", HOME) == "correct-horse"


@pytest.mark.parametrize(
    "text",
    [
        "pypi: tuna 38 ms, aliyun 41 ms; not now: nju",
        "https://mirror.example/simple/ and git@host.example:x and a@b",
        "3.11.7 (/usr/bin/python3)",
        "tokens: none expired; hf_hub is not a token, nor is ms-short",
        "镜像：无\n第二行\n",
        "",
    ],
)
def test_all_else_stays_as_it_is(text: str) -> None:
    assert redact(text, HOME) == text


def test_json_and_passwords_with_an_at_sign_are_hidden_too() -> None:
    assert redact('{"token": "abc", "port": 1}', HOME) == '{"token": "…", "port": 1}'
    assert redact("http://u:p@ss@host/simple", HOME) == "http://…@host/simple"
