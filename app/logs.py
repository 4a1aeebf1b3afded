"""The app's log: lines of JSON for programs and for `summary`, beside the lines for people on stderr.

Each process writes a file of its own, OUTPUTS/logs/NAME.jsonl, and when that is full, older ones are NAME.jsonl.1 and
so on. A line is one object: time (UTC), level, event, process, pid, and what the event has of

    version       of the app, at its start
    phase         how far a start is
    job, model, worker
    seconds, peak_bytes, rung   how long a video took, memory of the card at most, which low-memory way was taken
    error, reason, trace        class of an error, what it says, and where it was raised if nobody had thought of it

Nothing of it names people or holds secrets, and prompts do not go there at all (see `hiding`). A log that cannot be
written is said once, and never stops the app.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import files
from app.texts import tr
from jingxiang import __version__, console, file_lock
from jingxiang.errors import JingxiangError
from jingxiang.redaction import HIDDEN, redact

if TYPE_CHECKING:
    from logging import LogRecord

FOLDER = "logs"  # in that of the videos
ENDING = ".jsonl"
FILE_BYTES, OLDER_FILES = 2_000_000, 3  # some ten thousand videos for each process
MOST_PROCESSES = 64  # of one name
STARTED, STOPPED, LOADED, DONE, FAILED, TROUBLE = "started", "stopped", "loaded", "done", "failed", "trouble"
REACHED = "reached"  # a phase of a start
FRAMES = 6  # of a trace: the innermost ones
# A shorter text may be part of any word.
HIDDEN_LETTERS = 4

_logger = logging.getLogger("jingxiang.app")
_logger.setLevel(logging.INFO)
_logger.propagate = False
_logger.addHandler(logging.NullHandler())
_hidden: ContextVar[tuple[str, ...]] = ContextVar("hidden", default=())
# The name that we write under. It is not the handler's: a library that sets up its own logging closes all handlers, and
# they open their files again.
_held = contextlib.ExitStack()


@dataclass(frozen=True)
class Entry:
    """One line. `fields`: what is not among the others."""

    time: datetime
    level: str
    event: str
    process: str
    fields: Mapping[str, str | int | float]

    def to_json(self) -> dict[str, object]:
        time = self.time.isoformat(timespec="milliseconds")
        return {"time": time, "level": self.level, "event": self.event, "process": self.process, **self.fields}


def start(outputs: Path, name: str) -> None:
    """From now on, write what is told with `event`, into the folder of the videos. Of processes with the same name the
    second one is called NAME-2. Called again, the name is another one.
    """
    stop()
    _logger.addHandler(_handler(outputs / FOLDER, name))
    event(STARTED, version=__version__)


def stop() -> None:
    """Write no more; the name is free for another process."""
    for handler in _logger.handlers[:]:
        _logger.removeHandler(handler)
        handler.close()
    _held.close()
    _logger.addHandler(logging.NullHandler())


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """What ends the process is in its log."""
    try:
        yield
    except Exception as error:
        event(TROUBLE, error=error)
        raise
    finally:
        event(STOPPED)


def event(
    name: str,
    *,
    job: str = "",
    model: str = "",
    worker: str = "",
    seconds: float | None = None,
    peak_bytes: int | None = None,
    rung: str = "",
    error: BaseException | None = None,
    reason: str = "",
    version: str = "",
    phase: str = "",
) -> None:
    """Write a line, if a log was started. What is empty is left out; with an `error` or a `reason` it is an error's.

    May be called from any thread.
    """
    fields: dict[str, object] = {
        "version": version, "phase": phase, "job": job, "model": model, "worker": worker, "rung": rung,
        "seconds": None if seconds is None else round(seconds, 3), "peak_bytes": peak_bytes, "reason": reason,
    }  # fmt: skip
    if error is not None:
        fields |= {"error": type(error).__name__, "reason": _said(error), "trace": _trace(error)}
    told = {key: value for key, value in fields.items() if value not in ("", None)}
    level = logging.ERROR if error is not None or reason else logging.INFO
    _logger.log(level, name, extra={"fields": told})


@contextlib.contextmanager
def hiding(*texts: str) -> Iterator[None]:
    """Meanwhile, in this thread or task, these texts of a user, such as a prompt, are left out of what is written, also
    where an error of some library holds them.
    """
    also = [repr(text)[1:-1] for text in texts]
    wanted = sorted({each for each in (*texts, *also) if len(each) >= HIDDEN_LETTERS}, key=len, reverse=True)
    token = _hidden.set((*_hidden.get(), *wanted))
    try:
        yield
    finally:
        _hidden.reset(token)


def public(text: str) -> str:
    """The text without what is secret, personal or hidden now."""
    for hidden in _hidden.get():
        text = text.replace(hidden, HIDDEN)
    text = redact(text, _home())
    return re.sub(r"(?<=/home/)[^/\s'\":,;)]+|(?<=/Users/)[^/\s'\":,;)]+", HIDDEN, text)


def plain(text: str) -> str:
    """One line that does nothing to a terminal, whatever an error says."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def read(outputs: Path) -> list[Entry]:
    """What all processes have written, the oldest first. What is no line of a log is passed over."""
    found = []
    for path in sorted((outputs / FOLDER).glob(f"*{ENDING}*"), reverse=True):  # of one name, the oldest first
        try:
            with files.opened(path) as file:
                lines = file.read().decode("utf-8", "replace").split("\n")  # JSON may hold other ends of lines
        except OSError:  # it may have become another's name just now
            continue
        found += [entry for line in lines if (entry := _entry(line)) is not None]
    return sorted(found, key=lambda entry: entry.time)


def show(outputs: Path, *, count: int, as_json: bool) -> None:
    """The last lines on stdout, for people or as they are."""
    entries = read(outputs)
    if not entries:
        console.line("log", tr("{folder} holds none yet", folder=public(str(outputs / FOLDER))))
    for entry in entries[len(entries) - min(count, len(entries)) :]:
        if as_json:
            console.data(json.dumps(entry.to_json(), ensure_ascii=False))
            continue
        local = entry.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        told = "  ".join(f"{key}={value}" for key, value in entry.fields.items() if key not in ("pid", "trace"))
        console.data(plain(f"{local}  {entry.process:8}  {entry.event:8}  {told}").rstrip())


def _handler(folder: Path, name: str) -> logging.Handler:
    """Imports its libraries only when there is something to write: commands that end at once do not wait for them."""
    from logging.handlers import RotatingFileHandler

    from pythonjsonlogger.json import JsonFormatter

    class Lines(JsonFormatter):
        def add_fields(self, log_data: dict[str, Any], record: LogRecord, message_dict: dict[str, Any]) -> None:
            time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
            log_data.update(time=time, level=record.levelname.lower(), event=record.getMessage(), process=process)
            log_data["pid"] = record.process
            fields: dict[str, object] = getattr(record, "fields", {})
            log_data.update({key: public(value) if isinstance(value, str) else value for key, value in fields.items()})

    class File(RotatingFileHandler):
        said = broken = False

        def _open(self) -> Any:
            stream = super()._open()
            if self.broken:  # the last line may be half a one
                stream.write("\n")
            self.broken = False
            return stream

        def handleError(self, record: LogRecord) -> None:  # noqa: N802 (logging's name)
            error = sys.exc_info()[1]
            if not isinstance(error, OSError):  # a mistake of ours
                super().handleError(record)
                return
            stream, self.stream, self.broken = self.stream, None, True
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
            if not self.said:
                self.said = True
                console.warn(tr("{name}: cannot be written: {reason}", name=FOLDER, reason=error.strerror))

        def close(self) -> None:
            with contextlib.suppress(OSError):
                super().close()

    process = name
    with contextlib.suppress(OSError):  # said when the first line cannot be written
        folder.mkdir(parents=True, exist_ok=True)
        process = _own(folder, name)
    handler = File(
        folder / f"{process}{ENDING}", maxBytes=FILE_BYTES, backupCount=OLDER_FILES, encoding="utf-8",
        errors="backslashreplace", delay=True,
    )  # fmt: skip
    handler.setFormatter(Lines(json_ensure_ascii=False))
    return handler


def _own(folder: Path, name: str) -> str:
    """A name that no other process writes under: two would take each other's file away when it is full."""
    for number in range(1, MOST_PROCESSES):
        found = name if number == 1 else f"{name}-{number}"
        if _held.enter_context(file_lock.held(folder / f".{found}.lock", wait=False)):
            return found
    return f"{name}-{os.getpid()}"


def _entry(line: str) -> Entry | None:
    try:
        values = json.loads(line)
        time = datetime.fromisoformat(values.pop("time"))
        level, name, process = (str(values.pop(key)) for key in ("level", "event", "process"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if time.tzinfo is None:
        return None
    fields = {str(key): value for key, value in values.items() if isinstance(value, (str, int, float))}
    return Entry(time, level, name, process, fields)


def _said(error: BaseException) -> str:
    return error.message if isinstance(error, JingxiangError) else str(error)


def _trace(error: BaseException) -> str:
    """The places that an error came through, without what stood in variables; nothing for those that speak for
    themselves.
    """
    if isinstance(error, JingxiangError):
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def _home() -> Path:
    """The folder that says who somebody is; in a container it is a folder of everybody's, or there is none."""
    try:
        home = Path.home()
    except RuntimeError:
        return Path("/")
    return Path("/") if home == Path("/tmp") else home  # noqa: S108 (compared, nothing is put there)
