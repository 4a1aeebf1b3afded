"""What a host knows of its deployments beside what runs: who deploys now, and what was deployed."""

from __future__ import annotations

import contextlib
import getpass
import json
import secrets
import socket
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Protocol

from jingxiang import console
from jingxiang.deploy_plan import LOCKED, DeployError, Release
from jingxiang.errors import JingxiangError
from jingxiang.language import tr

KEPT = 50  # releases in the list


class Records(Protocol):
    """Where a host keeps that: all who may deploy there see the same. Each raises `JingxiangError`."""

    @property
    def host(self) -> str:
        """What the host is called, for messages."""

    def hold(self, owner: str) -> str:
        """Have the lock unless somebody has it; gives whose it is now."""

    def let_go(self, owner: str) -> None:
        """Give it back if it is his still; without an owner: whoever has it."""

    def releases(self) -> str:
        """The list as it was written; empty if none was."""

    def write_releases(self, text: str) -> None: ...


def by() -> str:
    """Who we are, for colleagues."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def locked(site: Records, *, breaks: bool) -> Iterator[None]:
    """Nobody else deploys there meanwhile. Raises `DeployError`."""
    owner = json.dumps({"by": by(), "at": now(), "token": secrets.token_hex(8)})
    if breaks:
        site.let_go("")
    try:
        held = site.hold(owner)
        if held != owner:
            raise _held(site.host, held)
        console.line("lock", tr("taken"))
        yield
    finally:  # also when it may have been taken without an answer
        try:
            site.let_go(owner)
        except JingxiangError as error:
            console.warn(tr("{host}: the lock could not be given back: {reason}: --break-lock", host=site.host,
                            reason=error.message))  # fmt: skip


def releases(site: Records) -> tuple[Release, ...]:
    """The oldest first; none where nothing was deployed, or the list is broken."""
    try:
        return tuple(Release(**each) for each in json.loads(site.releases() or "[]"))
    except (ValueError, TypeError):
        return ()


def note(site: Records, version: str, image: str, how: str) -> None:
    """Write down that a version serves from now on."""
    listed = [*releases(site), Release(version, image, now(), by(), how)][-KEPT:]
    site.write_releases(json.dumps([each.to_json() for each in listed], indent=1) + "\n")


def _held(host: str, held: str) -> DeployError:
    try:
        owner = json.loads(held)
        who, since = str(owner["by"]), str(owner["at"])
    except (ValueError, KeyError, TypeError):
        who, since = "?", "?"
    text = tr("{host}: {who} deploys there since {since}", host=host, who=who, since=since)
    return DeployError(LOCKED, text, (tr("wait; or, if that was cut off: the same command with --break-lock"),))
