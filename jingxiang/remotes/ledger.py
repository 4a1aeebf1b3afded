"""What a host knows of its deployments beside what runs: who deploys now, and what was deployed. In the login's home.

lock/owner      JSON: by, at; the folder is the lock, because making a folder either works or does not
releases.json   the last ones, the newest last
"""

from __future__ import annotations

import contextlib
import getpass
import json
import socket
from collections.abc import Iterator
from datetime import datetime, timezone

from jingxiang import console
from jingxiang.deploy_plan import LOCKED, DeployError, Release
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.remotes.ssh import Connection, Unreachable

FOLDER = ".jingxiang/deploy"
KEPT = 50  # releases in the list
TAKE = f"umask 077; mkdir -p ~/{FOLDER} && mkdir ~/{FOLDER}/lock 2>/dev/null || exit 9; cat > ~/{FOLDER}/lock/owner"
HELD = 9
OWNER = f"cat ~/{FOLDER}/lock/owner 2>/dev/null"
BREAK = f"rm -rf ~/{FOLDER}/lock"
READ = f"cat ~/{FOLDER}/releases.json 2>/dev/null"
WRITE = f"umask 077; mkdir -p ~/{FOLDER} && cd ~/{FOLDER} && cat > releases.new && mv releases.new releases.json"
FORGET = f"rm -rf ~/{FOLDER}; rmdir ~/.jingxiang 2>/dev/null"


def by() -> str:
    """Who we are, for colleagues."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def locked(link: Connection, *, breaks: bool) -> Iterator[None]:
    """Nobody else deploys there meanwhile. Raises `DeployError`."""
    if breaks:
        link.run(BREAK)
    done = link.run(TAKE, given=json.dumps({"by": by(), "at": now()}))
    if done.code == HELD:
        raise _held(link)
    if done.code:
        raise JingxiangError(tr("{host}: the lock cannot be taken: {reason}", host=link.login.host, reason=done.tail))
    console.line("lock", tr("taken"))
    try:
        yield
    finally:
        try:
            link.restore()
            link.run(BREAK)
        except Unreachable:
            console.warn(tr("{host}: the lock could not be given back: --break-lock", host=link.login.host))


def releases(link: Connection) -> tuple[Release, ...]:
    """The oldest first; none where nothing was deployed, or the list is broken."""
    try:
        return tuple(Release(**each) for each in json.loads(link.run(READ).stdout or "[]"))
    except (ValueError, TypeError):
        return ()


def note(link: Connection, version: str, image: str, how: str) -> None:
    """Write down that a version serves from now on."""
    listed = [*releases(link), Release(version, image, now(), by(), how)][-KEPT:]
    done = link.run(WRITE, given=json.dumps([each.to_json() for each in listed], indent=1) + "\n")
    if done.code:
        console.warn(tr("{host}: the list of releases could not be written: {reason}", host=link.login.host,
                        reason=done.tail))  # fmt: skip


def forget(link: Connection) -> None:
    link.run(FORGET)


def _held(link: Connection) -> DeployError:
    try:
        owner = json.loads(link.run(OWNER).stdout)
        who, since = str(owner["by"]), str(owner["at"])
    except (ValueError, KeyError, TypeError):
        who, since = "?", "?"
    text = tr("{host}: {who} deploys there since {since}", host=link.login.host, who=who, since=since)
    return DeployError(LOCKED, text, (tr("wait; or, if that was cut off: the same command with --break-lock"),))
