"""The log in short, to be copied into a question: what runs here, what was done, and what went wrong, with its cause.

Imports nothing heavy: versions are read from what is installed, cards are asked for through NVML.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from app import causes, doctor, logs
from app.logs import Entry
from app.texts import speaking, spoken, tr
from jingxiang import __version__, console, gpu

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "gradio", "av")
SHOWN = 5
TEXT_LETTERS = 300  # of an error: some quote whole configurations


@dataclass(frozen=True)
class Trouble:
    """An error, how often it came and when last (UTC), with its likely cause and what to do; both empty if unknown."""

    last: str
    count: int
    error: str
    text: str
    cause: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Summary:
    """`started`: the last start of the server (UTC); `since`: from when on the log knows of jobs. Empty: not known."""

    versions: dict[str, str]
    machine: dict[str, str]
    cards: tuple[str, ...]
    disk: str
    started: str
    since: str
    done: int
    failed: int
    troubles: tuple[Trouble, ...]


def text(outputs: Path, language: str) -> str:
    """The summary as lines of plain text, in `en` or `zh`. `outputs` is the folder of the videos."""
    with speaking(language):
        found = collect(outputs)
        rows = [
            ("jingxiang", found.versions["jingxiang"]),
            *((word, value) for word, value in _machine_words(found.machine)),
            (tr("packages"), ", ".join(f"{name} {found.versions[name]}" for name in PACKAGES if found.versions[name])),
            *((tr("gpu"), card) for card in found.cards or (tr("no GPU"),)),
            (tr("disk"), found.disk),
            (tr("server"), _started(found.started)),
            (tr("jobs"), _jobs(found)),
        ]
        width = max(console.columns(word) for word, _ in rows)
        lines = [f"{console.pad(word, width)}  {value}" for word, value in rows]
        return "\n".join([*lines, "", *_told(found.troubles)]) + "\n"


def show(outputs: Path, *, as_json: bool) -> None:
    """The summary on stdout, as text or one JSON object."""
    if as_json:
        console.data_json(asdict(collect(outputs)))
    else:
        console.data(text(outputs, spoken()).rstrip())


def collect(outputs: Path) -> Summary:
    """What is known now, with nothing in it that is secret or says who somebody is."""
    entries = logs.read(outputs)
    starts = [entry for entry in entries if entry.event == logs.STARTED and entry.process.startswith("server")]
    return Summary(
        versions={"jingxiang": __version__, **{name: _version(name) for name in PACKAGES}},
        machine={each.subject: logs.public(each.text) for each in doctor.machine()},
        cards=tuple(_cards()),
        disk=_disk(outputs),
        started=_utc(starts[-1].time) if starts else "",
        since=_utc(entries[0].time) if entries else "",
        done=_jobs_of(entries, logs.DONE),
        failed=_jobs_of(entries, logs.FAILED),
        troubles=tuple(_troubles(entries)),
    )


def _jobs_of(entries: Sequence[Entry], event: str) -> int:
    """How many jobs came to that; one that two processes tell of is one."""
    return len({entry.fields.get("job", id(entry)) for entry in entries if entry.event == event})


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _cards() -> Iterable[str]:
    found = gpu.detect()
    if found.problem:
        yield tr("NVIDIA driver does not answer: {problem}", problem=found.problem)
    for card in found.cards:
        yield tr("{name}, driver {driver}: {free} of {total} free", name=card.name, driver=card.driver,
                 free=console.size(card.free_bytes), total=console.size(card.memory_bytes))  # fmt: skip


def _disk(outputs: Path) -> str:
    there = next(each for each in (outputs, *outputs.parents) if each.exists())
    free = console.size(shutil.disk_usage(there).free)
    return tr("{folder}: {free} free", folder=logs.public(str(outputs)), free=free)


def _troubles(entries: Sequence[Entry]) -> Iterable[Trouble]:
    """The last errors, the newest first, equal ones together."""
    alike: dict[tuple[str, str], list[Entry]] = {}
    for entry in reversed(entries):
        if entry.level == "error":
            reason = logs.plain(logs.public(str(entry.fields.get("reason", ""))))
            alike.setdefault((str(entry.fields.get("error", "")), reason), []).append(entry)
    for (error, said), found in list(alike.items())[:SHOWN]:
        cause = causes.of(error, said)
        shown = said if len(said) <= TEXT_LETTERS else f"{said[:TEXT_LETTERS]}…"
        known = (cause.text, cause.fix) if cause else ("", "")
        yield Trouble(_utc(found[0].time), len(found), error, shown, *known)


def _machine_words(machine: dict[str, str]) -> Iterable[tuple[str, str]]:
    words = {"python": tr("python"), "system": tr("system"), "memory": tr("memory")}
    return ((words[subject], value) for subject, value in machine.items())


def _started(time: str) -> str:
    if not time:
        return tr("no start in the log")
    seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(time)).total_seconds()
    return tr("started {time}, {hours:.1f} hours ago", time=_local(time), hours=max(0.0, seconds) / 3600)


def _jobs(found: Summary) -> str:
    if not found.since:
        return tr("none in the log")
    return tr("{done} done, {failed} failed since {time}", done=found.done, failed=found.failed,
              time=_local(found.since))  # fmt: skip


def _told(troubles: Sequence[Trouble]) -> Iterable[str]:
    if not troubles:
        yield tr("no errors in the log")
    for trouble in troubles:
        often = f" ({trouble.count}x)" if trouble.count > 1 else ""
        said = ": ".join(part for part in (trouble.error, trouble.text) if part)
        yield f"{_local(trouble.last)}{often}  {said}"
        if trouble.cause:
            yield "    " + tr("likely cause: {cause}", cause=trouble.cause)
            yield f"    -> {trouble.fix}"


def _utc(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat(timespec="seconds")


def _local(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
