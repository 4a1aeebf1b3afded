"""Who may use the app, and as whom."""

from __future__ import annotations

import base64
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.texts import tr
from jingxiang import console, passwords

MADE_NAME = "jingxiang"


@dataclass(frozen=True)
class User:
    """`name` is empty where nobody has to log in. Who is in charge may also load models, see everybody's jobs and read
    the log.
    """

    name: str
    is_in_charge: bool


@dataclass(frozen=True)
class Login:
    """What somebody says to come in; `name` is None where a password is sent alone."""

    name: str | None
    password: str

    @classmethod
    def of(cls, header: str) -> Login | None:
        """That of an Authorization header: `Bearer PASSWORD`, or `Basic` with name and password (RFC 7617)."""
        scheme, _, value = header.partition(" ")
        value = value.strip().encode("latin-1", "replace").decode("utf-8", "replace")  # as it was sent
        if scheme.lower() == "bearer":
            return cls(None, value)
        if scheme.lower() == "basic":
            try:
                name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except ValueError:
                return None
            return cls(name, password)
        return None


NOBODY_ELSE = User("", is_in_charge=True)


@dataclass(frozen=True)
class Access:
    """Names and their passwords; the first name is in charge. None at all: everybody who reaches the app may use it."""

    passwords: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> Access:
        """Those of a file, see `jingxiang.passwords`. Raises `UsageError`."""
        found = passwords.read(file)
        if file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            console.warn(tr("{name} can be read by other users of this machine: chmod 600 {name}", name=file))
        return cls(found)

    @classmethod
    def made(cls) -> Access:
        """One name with a password that nobody knew before, and that ends with this run, as its sessions do."""
        return cls({MADE_NAME: secrets.token_urlsafe(12)})

    @property
    def is_open(self) -> bool:
        return not self.passwords

    def allows(self, name: str, password: str) -> bool:
        """In the same time whether the name exists or not."""
        expected = self.passwords.get(name, "")
        return secrets.compare_digest(password.encode(), expected.encode()) and bool(expected)

    def user(self, name: str) -> User:
        """Somebody who has logged in."""
        return NOBODY_ELSE if self.is_open else User(name, is_in_charge=name == next(iter(self.passwords)))

    def authorized(self, login: Login) -> User | None:
        """Whose name and password that are; of a password alone, whose it is."""
        if login.name is None:
            names = [name for name in self.passwords if self.allows(name, login.password)]
            return self.user(names[0]) if names else None
        return self.user(login.name) if self.allows(login.name, login.password) else None
