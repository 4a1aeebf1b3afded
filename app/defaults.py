"""What the app does unless an option says otherwise: what an image, or whoever starts it, has put into the environment.

JINGXIANG_MODEL    name in app/models.toml
JINGXIANG_HOST     address to listen on
JINGXIANG_PORT     port to listen on; `health` asks there
JINGXIANG_DRAIN_S  seconds that a video which is being made gets after SIGTERM
JINGXIANG_JOBS     the job store, a URL (which may hold a password, so that it should not be an argument)
JINGXIANG_MEDIA    where pictures and videos are, a folder or a URL
JINGXIANG_PASSWORD_FILE  lines NAME:PASSWORD
JINGXIANG_PRODUCER       name or code of whoever offers the service, for the field AIGC of videos
JINGXIANG_NO_PASSWORD    1: let everybody in who can reach the address
JINGXIANG_COMPILE        auto: compile models for a GPU; never; always: for the CPU as well, which is for tests

An empty one is none. The folders are in `jingxiang.places`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from app.texts import tr
from jingxiang import compiled
from jingxiang.errors import UsageError

MODEL = "smoke"
HOST = "127.0.0.1"
PORT = 7860
DRAIN_S = 600.0


def model() -> str:
    return os.environ.get("JINGXIANG_MODEL") or MODEL


def host() -> str:
    return os.environ.get("JINGXIANG_HOST") or HOST


def port() -> int:
    """Raises `UsageError`."""
    text = os.environ.get("JINGXIANG_PORT") or ""
    # Kubernetes sets this variable for the pods beside a Service that is called jingxiang, to tcp://ADDRESS:PORT.
    if not text or "://" in text:
        return PORT
    if not text.isdecimal():
        raise UsageError(tr("JINGXIANG_PORT must be a whole number, not '{text}'", text=text))
    return int(text)


def jobs() -> str:
    return os.environ.get("JINGXIANG_JOBS") or ""


def media() -> str:
    return os.environ.get("JINGXIANG_MEDIA") or ""


def password_file() -> Path | None:
    named = os.environ.get("JINGXIANG_PASSWORD_FILE")
    return Path(named) if named else None


def producer() -> str:
    return os.environ.get("JINGXIANG_PRODUCER") or ""


def no_password() -> bool:
    return os.environ.get("JINGXIANG_NO_PASSWORD") == "1"


def compiling() -> str:
    """One of `compiled.MODES`. Raises `UsageError`."""
    return compiled.mode(os.environ.get(compiled.MODE))


def drain_s() -> float:
    """Raises `UsageError`."""
    text = os.environ.get("JINGXIANG_DRAIN_S") or str(DRAIN_S)
    try:
        return seconds(text)
    except ValueError as error:
        raise UsageError(tr("JINGXIANG_DRAIN_S must be seconds, not '{text}'", text=text)) from error


def seconds(text: str) -> float:
    """A duration; raises `ValueError`."""
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(text)
    return value


def probed(host: str) -> str:
    """Where a program of the same machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not listened on)
