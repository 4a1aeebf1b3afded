"""The tables of the job store, the same in SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

VERSION = 2  # of all that follows; goes up with every change
# What makes a store of the next version of one of each earlier one, its rows kept. New tables are made by themselves.
# Programs of an earlier version may still be at work with it: what is new must not be needed by what they write.
CHANGES = {1: ("ALTER TABLE jobs ADD COLUMN preview INTEGER NOT NULL DEFAULT 0",)}

metadata = MetaData()

about = Table("about", metadata, Column("version", Integer, nullable=False))

# `place` orders those that wait; `lot` is the same for jobs that can be made at once; `is_unwanted`: to be cancelled,
# but still running; `request` and `outcome` are JSON; `preview`: the step that is shown in `previews`, 0 if none is.
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("model", String(64), nullable=False),
    Column("lot", String(200), nullable=False),
    Column("request", Text, nullable=False),
    Column("picture", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("place", BigInteger, nullable=False),
    Column("step", Integer, nullable=False, default=0),
    Column("preview", Integer, nullable=False, server_default=text("0")),
    Column("claim", Integer, nullable=False, default=0),
    Column("deaths", Integer, nullable=False, default=0),
    Column("worker", String(64), nullable=False, default=""),
    Column("is_unwanted", Boolean, nullable=False, default=False),
    Column("is_pinned", Boolean, nullable=False, default=False),
    Column("reason", Text, nullable=False, default=""),
    Column("outcome", Text),
    Column("created", Float(53), nullable=False),
    Column("started", Float(53)),
    Column("ended", Float(53)),
    Index("jobs_waiting", "state", "place"),
    Index("jobs_of_owner", "owner", "created"),
    Index("jobs_of_picture", "picture"),
)

# A picture of how far a running job is, as JPEG. Apart from the job, which is read often and by many.
previews = Table(
    "previews",
    metadata,
    Column("job", String(64), primary_key=True),
    Column("image", LargeBinary, nullable=False),
)

# `status` is JSON; `wish` is the model that it should load next.
workers = Table(
    "workers",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("status", Text, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("wish", String(64), nullable=False, default=""),
)

# How many jobs have ended in each way, and what they took: it never shrinks, whatever is deleted.
totals = Table(
    "totals",
    metadata,
    Column("state", String(16), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("seconds", Float(53), nullable=False),
)

# What finished jobs and `calibrate` have measured: bytes at most and seconds in all, of one run.
measurements = Table(
    "measurements",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("gpu", String(200), nullable=False),
    Column("model", String(64), nullable=False),
    Column("dtype", String(16), nullable=False),
    Column("values", Text, nullable=False),
    Index("measurements_of", "gpu", "model", "dtype"),
)
