"""One database for the job store: SQLite in a file beside the videos, or PostgreSQL for several machines.

SQLite runs in WAL mode: readers and one writer do not wait for each other. What must survive a power cut is written to
the disk before anything goes on (`write`); steps and beats, which come often and are worth little, are not (`note`).
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from app.jobs import tables
from app.jobs.base import ENDS, StoreUnavailable
from app.texts import tr
from jingxiang import console
from jingxiang.errors import UsageError
from jingxiang.redaction import redact

BUSY_S = 10.0  # how long one waits for another program's lock
# Nobody waits for ever: not for a database that is cut off, and not for a program that is, in the middle of something.
POSTGRESQL = {
    "connect_timeout": 10,
    "application_name": "jingxiang",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "options": "-c idle_in_transaction_session_timeout=20s -c lock_timeout=10s -c statement_timeout=30s",
}
LOCK = 0x6A696E67  # PostgreSQL's advisory lock for changes that look at the whole queue
# What SQLite says of a file that is damaged: SQLITE_CORRUPT, SQLITE_NOTADB.
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class Damaged(StoreUnavailable):
    """The file is not a database any more."""


class Database:
    """Transactions of three kinds. All raise `StoreUnavailable` where the database does not answer."""

    def __init__(self, url: str, *, heals: bool = False) -> None:
        """Make the tables where they are missing, and a store of an earlier version one of ours. Raises
        `StoreUnavailable`, also for one of a later version.

        `heals`: a damaged file is kept under another name, which is said, and the store begins anew. Only for one
        process: the others would go on with the file that has another name now.
        """
        try:
            self.url = make_url(url)
        except ArgumentError:
            self.url = make_url("none://")
        self.shown = redact(self.url.render_as_string(hide_password=True))
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        if self.url.drivername not in ("sqlite", "postgresql+psycopg") or not self.url.database:
            raise UsageError(tr("{url}: must be sqlite:///FILE or postgresql://USER@HOST/DATABASE", url=self.shown))
        self.file = Path(self.url.database) if self.is_sqlite else None
        self._marker: sqlite3.Connection | None = None
        self._marking = threading.Lock()
        self._marker_name = ""
        self._connect()
        try:
            self._prepare()
        except Damaged:
            self.close()
            if self.file is None or not heals:
                raise
            kept = _put_aside(self.file)
            console.warn(tr("{file} is damaged; kept as {kept}, and begun anew", file=self.file.name, kept=kept.name))
            self._connect()
            self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        with self._guarded(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, *, alone: bool = False) -> Iterator[Connection]:
        """`alone`: nobody else's `alone` transaction runs at the same time. In SQLite no two writers ever do."""
        with self._guarded(), self._engine.execution_options(writes=True).begin() as connection:
            if alone and not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            yield connection

    @contextlib.contextmanager
    def note(self) -> Iterator[Connection]:
        with self._guarded(), self._hasty.execution_options(writes=True).begin() as connection:
            if not self.is_sqlite:
                connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    def mark(self) -> str:
        """Another one than before as soon as anything has been written, by whomever; asking costs next to nothing.

        For SQLite see `PRAGMA data_version`, which compares within one connection; for PostgreSQL pg_current_snapshot,
        which names the transactions whose changes can be seen.
        """
        if self.file is None:
            with self.read() as connection:
                return str(connection.scalar(text("SELECT pg_current_snapshot()::text")))
        with self._marking:
            return self._mark(self.file)

    def _mark(self, file: Path) -> str:
        try:
            if self._marker is None:
                url = f"{file.absolute().as_uri()}?mode=rw"  # a file that is gone is not made anew
                self._marker = sqlite3.connect(
                    url, timeout=BUSY_S, isolation_level=None, check_same_thread=False, uri=True
                )
                # Numbers of two connections say nothing of each other.
                self._marker_name = secrets.token_hex(4)
            return f"{self._marker_name}-{self._marker.execute('PRAGMA data_version').fetchone()[0]}"
        except sqlite3.Error as error:
            self._forget_marker()
            raise self._unavailable(OperationalError("PRAGMA data_version", None, error)) from error

    def close(self) -> None:
        self._engine.dispose()
        self._hasty.dispose()
        with self._marking:
            self._forget_marker()

    def _forget_marker(self) -> None:
        if self._marker is not None:
            self._marker.close()
            self._marker = None

    def _connect(self) -> None:
        if self.is_sqlite:
            self._engine, self._hasty = _sqlite(self.url, "FULL"), _sqlite(self.url, "NORMAL")
        else:
            # Checked before use: a connection from before the database was restarted is replaced, and nobody notices.
            self._engine = self._hasty = create_engine(self.url, pool_pre_ping=True, connect_args=POSTGRESQL)

    def _prepare(self) -> None:
        if self.file is not None:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(f"{self.shown}: {error.strerror}") from error
        with self.write(alone=True) as connection:
            if self.is_sqlite:
                self._check(connection)
            tables.metadata.create_all(connection)
            version = connection.scalar(select(tables.about.c.version))
            if version is None:
                connection.execute(insert(tables.about), {"version": tables.VERSION})
                connection.execute(insert(tables.totals), [{"state": s, "number": 0, "seconds": 0.0} for s in ENDS])
            elif version > tables.VERSION:
                text_ = tr("{url}: made by another version of the app (store {found}, this one has {known})",
                           url=self.shown, found=version, known=tables.VERSION)  # fmt: skip
                raise StoreUnavailable(text_)
            elif version < tables.VERSION:
                for statement in (each for old in range(version, tables.VERSION) for each in tables.CHANGES[old]):
                    connection.exec_driver_sql(statement)
                connection.execute(update(tables.about), {"version": tables.VERSION})

    def _check(self, connection: Connection) -> None:
        """SQLite notices by itself only what it happens to read."""
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            error = sqlite3.DatabaseError(str(found))
            error.sqlite_errorname = DAMAGED[0]  # type: ignore[attr-defined]  # as SQLite itself would
            raise OperationalError("PRAGMA quick_check", None, error)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: SQLAlchemyError) -> StoreUnavailable:
        reason = str(getattr(error, "orig", error)).strip().splitlines()
        text_ = redact(reason[0]) if reason else type(error).__name__
        if "database is locked" in text_:
            text_ = tr("another program holds its lock for longer than {seconds:.0f} s", seconds=BUSY_S)
        kind = Damaged if getattr(getattr(error, "orig", None), "sqlite_errorname", "") in DAMAGED else StoreUnavailable
        return kind(tr("the job store {url} cannot be used: {reason}", url=self.shown, reason=text_))


def _sqlite(url: Any, synchronous: str) -> Any:
    """An engine whose transactions begin as SQLAlchemy says, and not only with their first write.

    See "Serializable isolation / Savepoints / Transactional DDL" in SQLAlchemy's page on SQLite.
    """
    engine = create_engine(url, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None
        try:
            for pragma in ("journal_mode=WAL", f"synchronous={synchronous}"):
                connection.execute(f"PRAGMA {pragma}").close()
        except sqlite3.Error:  # SQLAlchemy never gets to know this connection
            connection.close()
            raise

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        is_writer = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    return engine


def _put_aside(file: Path) -> Path:
    """Rename a database file, and what SQLite keeps beside it."""
    kept = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for end in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            file.with_name(file.name + end).rename(kept.with_name(kept.name + end))
    file.rename(kept)
    return kept
