"""jingxiang.remotes.ssh: what is said to ssh, and what its words mean; connections are in tests/e2e/test_deploy.py"""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest

from jingxiang.process import Finished
from jingxiang.remotes import ssh
from jingxiang.remotes.ssh import Answer, Connection, Login, Unreachable

BANNER = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key for gpu-1 has changed and you have requested strict checking.
Host key verification failed."""


@pytest.mark.parametrize(
    ("login", "words", "shown"),
    [
        (Login("gpu-1"), ["--", "gpu-1"], "gpu-1"),
        (
            Login("203.0.113.7", "root", 2222),
            ["-l", "root", "-p", "2222", "--", "203.0.113.7"],
            "-p 2222 root@203.0.113.7",
        ),
        (Login("h", options=("IdentityFile=key",)), ["-o", "IdentityFile=key", "--", "h"], "h"),
    ],
)
def test_a_login_is_said_as_ssh_takes_it(login: Login, words: list[str], shown: str) -> None:
    """A port that was left out stays left out: the user's ssh config has it."""
    assert (login.words, login.shown) == (words, shown)


@pytest.mark.parametrize(
    ("said", "text", "hint"),
    [
        (BANNER, "its host key has changed", "ssh-keygen -R gpu-1"),
        ("Host key verification failed.", "its host key is not known yet", "ssh gpu-1"),
        ("root@gpu-1: Permission denied (publickey).", "Permission denied (publickey)", "ssh-copy-id gpu-1"),
        ("ssh: Could not resolve hostname gpu-1: Name or service not known", "Could not resolve hostname", "the name"),
        ("ssh: connect to host gpu-1 port 22: Connection timed out", "Connection timed out", "security group"),
        ("ssh: connect to host gpu-1 port 22: Connection refused", "Connection refused", "ssh://HOST:PORT"),
        ("kex_exchange_identification: read: Connection reset by peer", "Connection reset", "ssh gpu-1"),
    ],
)
def test_what_ssh_says_comes_with_what_settles_it(said: str, text: str, hint: str) -> None:
    error = ssh.explained(Login("gpu-1"), said)
    assert text in error.message
    assert hint in error.hints[0]


def test_whoever_cannot_be_reached_leaves_nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text(
        "#!/bin/sh\n[ \"$1\" = -G ] || { echo 'ssh: connect to host h port 22: Connection refused' >&2; exit 255; }\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    link = Connection(Login("h"))
    with pytest.raises(Unreachable, match="Connection refused"), link:
        pass
    assert not Path(link._scratch).exists()


def test_settings_that_would_trust_any_key_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\necho 'hostname 203.0.113.7'\necho 'stricthostkeychecking false'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert ssh._strict(Login("h")) == ["StrictHostKeyChecking=accept-new"]
    assert ssh.hostname(Login("h")) == "203.0.113.7"


class Lossy(Connection):
    """Loses its connection so often while a script runs."""

    def __init__(self, losses: int) -> None:
        super().__init__(Login("h"))
        self.losses, self.restored = losses, 0

    def restore(self) -> None:
        self.restored += 1

    def run(self, script: str, *arguments: str, given: str = "", timeout_s: float = 0) -> Finished:
        self.losses -= 1
        if self.losses >= 0:
            raise Unreachable("h: the connection was lost")
        return Finished(0, given, "")


def test_a_script_that_does_no_harm_by_it_is_run_again_when_the_connection_was_lost() -> None:
    link = Lossy(2)
    assert (link.repeat("cat", given="x").stdout, link.restored) == ("x", 3)
    with pytest.raises(Unreachable, match="the connection was lost"):
        Lossy(3).repeat("cat")


def test_the_connection_is_ours_alone_and_ends_with_us() -> None:
    """A user's ControlPersist would have it outlive us, and with it what it has forwarded."""
    assert {"ControlPersist=no", "ClearAllForwardings=yes", "BatchMode=yes"} <= set(ssh.OURS)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.send_header("X-Path", self.path)
        self.end_headers()
        self.wfile.write(b"body")

    def address_string(self) -> str:
        return ""

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_is_behind_a_socket_is_asked_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    with _Server("near", _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        answer = ssh.get(Path("near"), "/readyz")
        server.shutdown()
        thread.join()
    assert (answer.status, answer.headers["x-path"], answer.body) == (503, "/readyz", b"body")
    assert ssh.get(Path("absent"), "/") == Answer(0, {}, b"")
