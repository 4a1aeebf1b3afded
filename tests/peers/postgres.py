"""A real PostgreSQL of the tests' own: one server in each process that runs tests, started when it is first needed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.peers import system

USER = "jingxiang"
_numbers = itertools.count(1)


@contextlib.contextmanager
def or_sqlite(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty database of that kind: `postgresql`, or `sqlite` in a file of the folder."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/jobs.sqlite3"
    else:
        with database() as there:
            yield there


@contextlib.contextmanager
def database() -> Iterator[str]:
    """URL of an empty database."""
    name = f"test{next(_numbers)}"
    with _connected() as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    try:
        yield f"postgresql://{USER}@127.0.0.1:{_port()}/{name}"
    finally:
        with _connected() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def start() -> None:
    """Start it after `stop`."""
    options = f"-p {_port()} -c listen_addresses=127.0.0.1 -c unix_socket_directories={_folder()} -c fsync=off"
    _run("pg_ctl", "-D", str(_folder() / "data"), "-l", str(_folder() / "log"), "-w", "-o", options, "start")


def stop() -> None:
    """As a crash does it: nobody is waited for."""
    _run("pg_ctl", "-D", str(_folder() / "data"), "-m", "immediate", "-w", "stop")


@contextlib.contextmanager
def _connected() -> Iterator[psycopg.Connection]:
    _server()
    address = f"postgresql://{USER}@127.0.0.1:{_port()}/postgres"
    with psycopg.connect(address, autocommit=True) as connection:
        yield connection


@functools.cache
def _server() -> None:
    _run("initdb", "-D", str(_folder() / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
    start()
    atexit.register(_end)


def _end() -> None:
    with contextlib.suppress(subprocess.CalledProcessError):
        stop()
    shutil.rmtree(_folder(), ignore_errors=True)


@functools.cache
def _port() -> int:
    return system.free_port()


@functools.cache
def _folder() -> Path:
    """In /tmp whatever TMPDIR is: the path of a socket must be short."""
    folder = Path(tempfile.mkdtemp(prefix="jingxiang-pg-", dir="/tmp"))
    if os.getuid() == 0:
        user = _nobody()
        os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def _nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


@functools.cache
def _binaries() -> Path:
    """Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    system.require(found, "no PostgreSQL: apt-get install postgresql")
    return found[-1].parent


def _run(name: str, *arguments: str) -> None:
    """Not as root: PostgreSQL refuses to run so."""
    argv = [str(_binaries() / name), *arguments]
    if os.getuid() == 0:
        user = _nobody()
        argv = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *argv]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd="/")
