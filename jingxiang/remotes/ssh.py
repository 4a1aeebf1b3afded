"""A host behind ssh: the system's own client, one connection for commands, sockets and ports.

Its configuration, agent and jump hosts are the user's. Nothing is asked (BatchMode): what would be asked is an error
with the command that settles it. The connection ends with us, even when we are killed: what holds it open on the host
reads from a pipe of ours.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import shlex
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from jingxiang import process
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.process import Finished

CONNECT_S = 10
COMMAND_S = 60.0
AGAIN_S = 30.0  # how long a lost connection is looked for
PAUSE_S = 1.0
TRIES = 3
# The user's own settings must not make the connection another kind of thing.
OURS = (
    "BatchMode=yes", f"ConnectTimeout={CONNECT_S}", "ServerAliveInterval=5", "ServerAliveCountMax=3",
    "RemoteCommand=none", "RequestTTY=no", "ClearAllForwardings=yes", "PermitLocalCommand=no",
    "ControlPersist=no",
)  # fmt: skip
LOST = 255  # what ssh ends with when it is not the command that failed


class Unreachable(JingxiangError):
    """No connection; the message is ssh's own."""


@dataclass(frozen=True)
class Login:
    """Whom to connect to. What is left out is up to the user's ssh config. `options`: more of `ssh -o`."""

    host: str
    user: str | None = None
    port: int | None = None
    options: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """For the command line of ssh, up to the host."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port else []
        return [*(word for option in self.options for word in ("-o", option)), *user, *port, "--", self.host]

    @property
    def shown(self) -> str:
        """As people type it after ssh."""
        port = f"-p {self.port} " if self.port else ""
        return f"{port}{self.user}@{self.host}" if self.user else f"{port}{self.host}"


class Connection:
    """Open while it is entered; found again when it was lost."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self._scratch = ""
        self._open = contextlib.ExitStack()
        self._forwards: dict[str, Path] = {}

    def __enter__(self) -> Connection:
        # /tmp, because the names of sockets have to be short.
        self._scratch = tempfile.mkdtemp(prefix="jx-", dir="/tmp" if Path("/tmp").is_dir() else None)  # noqa: S108
        try:
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        for path in Path(self._scratch).iterdir():
            path.unlink()
        Path(self._scratch).rmdir()

    def run(self, script: str, *arguments: str, given: str = "", timeout_s: float = COMMAND_S) -> Finished:
        """Run a script of a POSIX shell there. Raises `Unreachable`; what the script ends with is the caller's."""
        done = process.run(self.command(script, *arguments), given=given, timeout_s=timeout_s)
        if done.code == LOST and not self.is_alive:
            raise Unreachable(tr("{host}: the connection was lost", host=self.login.host))
        return done

    def repeat(self, script: str, *arguments: str, given: str = "", timeout_s: float = COMMAND_S) -> Finished:
        """The same, and again when the connection was lost meanwhile: for scripts that do no harm by that."""
        for _ in range(TRIES - 1):
            self.restore()
            with contextlib.suppress(Unreachable):
                return self.run(script, *arguments, given=given, timeout_s=timeout_s)
        self.restore()
        return self.run(script, *arguments, given=given, timeout_s=timeout_s)

    def command(self, script: str, *arguments: str) -> list[str]:
        """The same, for whoever starts it by himself."""
        line = shlex.join(["sh", "-c", script, "sh", *arguments])
        return [*self._client, "-T", "--", self.login.host, line]

    def forward(self, far: str) -> Path:
        """A socket here that leads to a socket's path or HOST:PORT there; the connection is found again for it if it
        was lost. Raises `Unreachable`."""
        if far not in self._forwards:
            near = Path(self._scratch) / f"f{len(self._forwards)}"
            try:
                self._forward(far, near)
            except Unreachable:
                if self.is_alive:  # then it was refused
                    raise
                self.restore()
                self._forward(far, near)
            self._forwards[far] = near
        return self._forwards[far]

    @property
    def is_alive(self) -> bool:
        return process.run([*self._client, "-O", "check", "--", self.login.host], timeout_s=CONNECT_S).code == 0

    def restore(self) -> None:
        """Connect again if the connection was lost, with all that went through it. Raises `Unreachable`."""
        if self.is_alive:
            return
        end = time.monotonic() + AGAIN_S
        while True:
            try:
                self._connect()
                for far, near in self._forwards.items():
                    self._forward(far, near)
                return
            except Unreachable:
                if time.monotonic() > end:
                    raise
                time.sleep(PAUSE_S)

    @property
    def _socket(self) -> Path:
        return Path(self._scratch) / "c"

    @property
    def _client(self) -> list[str]:
        return ["ssh", "-S", str(self._socket), "-o", "ControlMaster=no", "-o", "BatchMode=yes"]

    def _connect(self) -> None:
        self._open.close()
        self._socket.unlink(missing_ok=True)
        options = [*OURS, *_strict(self.login)]
        argv = ["ssh", "-M", "-S", str(self._socket), *(word for each in options for word in ("-o", each)), "-T"]
        # `cat` ends when our end of the pipe does: so does the connection, then.
        beside = process.beside(
            [*argv, *self.login.words, "cat"], until=self._socket.exists, timeout_s=4 * CONNECT_S, held=True
        )
        problem = self._open.enter_context(beside)
        if problem:
            self._open.close()
            raise explained(self.login, problem)

    def _forward(self, far: str, near: Path) -> None:
        near.unlink(missing_ok=True)
        done = process.run([*self._client, "-O", "forward", "-L", f"{near}:{far}", "--", self.login.host])
        if done.code:
            raise Unreachable(tr("{host}: nothing can be forwarded: {reason}", host=self.login.host, reason=done.tail))


def _strict(login: Login) -> list[str]:
    """An option for a user who takes any key: new ones are taken then, but never one that has changed. None for all
    others: their own setting holds."""
    found = process.run(["ssh", "-G", *login.words], timeout_s=CONNECT_S).stdout
    loose = re.search(r"^stricthostkeychecking (no|off|false)$", found, re.MULTILINE)
    return ["StrictHostKeyChecking=accept-new"] if loose else []


def hostname(login: Login) -> str:
    """The name or address that the user's ssh config has for a host."""
    found = process.run(["ssh", "-G", *login.words], timeout_s=CONNECT_S).stdout
    named = re.search(r"^hostname (.+)$", found, re.MULTILINE)
    return named[1] if named else login.host


def explained(login: Login, said: str) -> Unreachable:
    """What ssh says, and what settles it."""
    host = login.shown
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("@")]
    last = lines[-1] if lines else said
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said or ("Host key for" in said and "has changed" in said):
        text = tr("{host}: its host key has changed: it may be another machine, and is not trusted", host=login.host)
        return Unreachable(text, (tr("ask whoever runs it; if it was installed anew: ssh-keygen -R {host}",
                                     host=login.host), f"ssh {host}"))  # fmt: skip
    if "Host key verification failed" in said:
        text = tr("{host}: its host key is not known yet", host=login.host)
        return Unreachable(text, (tr("once, by hand, and compare the key: ssh {host}", host=host),))
    hints = {
        "Permission denied": tr("ssh-copy-id {host}; or the user name: ssh://USER@HOST", host=host),
        "Could not resolve": tr("the name: as after ssh, or an address"),
        "timed out": tr("the address, the port, and whether the security group lets port 22 in"),
        "refused": tr("the port: ssh://HOST:PORT; whether sshd runs there"),
    }
    found = next((hint for word, hint in hints.items() if word in said), f"ssh {host}")
    return Unreachable(f"{login.host}: {last}", (found,))


class _Near(http.client.HTTPConnection):
    """HTTP over a socket of `Connection.forward`."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Answer:
    """Of an HTTP server: status 0 if there was none; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def get(near: Path, path: str, *, timeout_s: float = 5.0, host: str = "localhost") -> Answer:
    """Ask what is behind a forwarded socket."""
    with contextlib.closing(_Near(near, timeout_s)) as connection:
        try:
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException):
            return Answer(0, {}, b"")
