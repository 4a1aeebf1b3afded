"""`doctor`: one screen about the container (or machine) that the app runs in, with a fix for each problem."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app import cgroups, gpu, logs, wholeness
from app.artifacts import Shelf
from app.texts import FOLDER, tr
from jingxiang import __version__, console, models, weights
from jingxiang.errors import JingxiangError

OK, NOTE, PROBLEM = "ok", "note", "problem"
MARKS = {OK: console.GREEN, NOTE: console.YELLOW, PROBLEM: console.RED}
LITTLE_BYTES = 1_000_000_000  # a few hundred videos, and the pictures that are uploaded
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One line of the report. With a `problem` the app does not work; a `note` only costs speed or a feature."""

    subject: str
    state: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Asked:
    """What the app would be started with: the model's name, the folder of the models, that of the videos, and those of
    what is compiled.
    """

    model: str
    models: Path
    outputs: Path
    artifacts: tuple[Path, ...] = ()


class ProblemsFound(JingxiangError):
    """The report holds problems; each line of it says what to do."""

    def __init__(self, subjects: list[str]) -> None:
        super().__init__(tr("to be put right first: {subjects}", subjects=", ".join(dict.fromkeys(subjects))))


def doctor(asked: Asked, *, as_json: bool) -> None:
    """Print the report; raises `ProblemsFound` if there is anything that the app cannot work with."""
    sections = (machine(), _gpu(), _models(asked), _compiled(asked), _outputs(asked), _temporary())
    findings = [_public(each) for section in sections for each in section]
    if as_json:
        console.data_json({"version": __version__, "findings": [asdict(each) for each in findings]})
    else:
        _show(findings)
    if problems := [_words()[each.subject] for each in findings if each.state == PROBLEM]:
        raise ProblemsFound(problems)


def _words() -> dict[str, str]:
    """Subjects and states as people read them."""
    return {
        OK: tr("ok"),
        NOTE: tr("note"),
        PROBLEM: tr("problem"),
        "python": tr("python"),
        "system": tr("system"),
        "memory": tr("memory"),
        "gpu": tr("gpu"),
        "model": tr("model"),
        "compiled": tr("compiled"),
        "outputs": tr("outputs"),
        "temporary": tr("temporary"),
    }


def _show(findings: list[Finding]) -> None:
    words, rows = _words(), []
    for each in findings:
        state = console.paint(console.pad(words[each.state], 5), MARKS[each.state])
        rows.append((state, words[each.subject], each.text))
        if each.fix:
            rows.append(("", "", f"-> {each.fix}"))
    console.table(rows)


def _public(finding: Finding) -> Finding:
    return replace(finding, text=logs.public(finding.text), fix=logs.public(finding.fix))


def machine() -> Iterator[Finding]:
    """Python, system and memory, which are never wrong."""
    import psutil

    yield Finding("python", OK, f"{platform.python_version()} ({sys.executable})")
    try:
        release = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        release = platform.system()
    yield Finding("system", OK, f"{release}, {platform.release()}, {platform.machine()}")
    machine, allowed = psutil.virtual_memory(), cgroups.allowance()
    total, free = machine.total, machine.available
    cores: float = len(os.sched_getaffinity(0))
    limited = False
    if allowed.memory and allowed.memory.limit_bytes < total:
        total, limited = allowed.memory.limit_bytes, True
        free = min(free, max(0, total - allowed.memory.used_bytes))
    if allowed.cores and allowed.cores < cores:
        cores, limited = allowed.cores, True
    text = tr("{cores} cores, {free} of {total} free", cores=f"{cores:g}", free=console.size(free),
              total=console.size(total))  # fmt: skip
    yield Finding("memory", OK, text + (tr(" (limits of the container)") if limited else ""))


def _gpu() -> Iterator[Finding]:
    states = {True: OK, None: NOTE, False: PROBLEM}
    for verdict in gpu.verdicts(gpu.ask(), gpu.surroundings()):
        yield Finding("gpu", states[verdict.is_well], verdict.text, verdict.fix)


def _models(asked: Asked) -> Iterator[Finding]:
    """Each model that is there, and the one that is asked for."""
    try:
        catalog = models.load(FOLDER / "models.toml")
        locked = weights.load(FOLDER / "models.lock")
        default = catalog.model(asked.model)
    except JingxiangError as error:
        yield Finding("model", PROBLEM, error.message, *error.hints[:1])
        return
    for spec in catalog.models.values():
        folder = asked.models / spec.name
        if folder.is_dir():
            yield _model(spec, folder, locked.get(spec.name), is_default=spec is default)
        elif spec is default and spec.weights is None and _unwritable(asked.models) is None:
            yield Finding("model", OK, tr("{model} is made when it is first used", model=spec.name))
        elif spec is default:
            there = [name for name in catalog.models if (asked.models / name).is_dir()]
            fix = tr("--model NAME, or JINGXIANG_MODEL; there is {names}", names=", ".join(there) or tr("none"))
            yield Finding("model", PROBLEM, tr("{folder} is not there", folder=folder), fix)


def _model(spec: models.ModelSpec, folder: Path, lock: weights.ModelLock | None, *, is_default: bool) -> Finding:
    try:
        wrong, size = wholeness.lacking(spec, folder, lock), wholeness.size_bytes(folder)
    except OSError as error:
        wrong, size = [str(error)], 0
    if wrong:
        more = tr(" and {count} more", count=len(wrong) - SHOWN) if len(wrong) > SHOWN else ""
        text = f"{folder}: {', '.join(wrong[:SHOWN])}{more}"
        fix = tr("build or pull the image again; python -m app verify reads all of it")
        return Finding("model", PROBLEM if is_default else NOTE, text, fix)
    text = tr("{model}: whole, {size}", model=spec.name, size=console.size(size))
    return Finding("model", OK, text + (tr(" (the one that is used)") if is_default else ""))


def _compiled(asked: Asked) -> Iterator[Finding]:
    """What there is for the model, for each kind of GPU; it is no fault that there is nothing."""
    there = Shelf(*asked.artifacts).all() if asked.artifacts else []
    own = [each for each in there if each.key.model == asked.model]
    for architecture in sorted({each.key.architecture for each in own}):
        found = [each for each in own if each.key.architecture == architecture]
        shapes = ", ".join(sorted({each.key.shape for each in found}))
        size = console.size(sum(each.size_bytes for each in found))
        text = tr("{shapes} ({architecture}), {size}", shapes=shapes, architecture=architecture, size=size)
        yield Finding("compiled", OK, text)


def _outputs(asked: Asked) -> Iterator[Finding]:
    folder = asked.outputs
    fix = tr("docker run -v FOLDER:{folder} --user $(id -u):$(id -g) … with a FOLDER of your own", folder=folder)
    if reason := _unwritable(folder):
        user = f"{os.geteuid()}:{os.getegid()}"
        text = tr("{folder} cannot be written by user {user}: {reason}", folder=folder, user=user, reason=reason)
        yield Finding("outputs", PROBLEM, text, fix)
        return
    free = shutil.disk_usage(_existing(folder)).free
    text = tr("{folder}: {free} free", folder=folder, free=console.size(free))
    little = free < LITTLE_BYTES
    yield Finding("outputs", NOTE if little else OK, text, tr("make room, or mount a larger disk") if little else "")


def _temporary() -> Iterator[Finding]:
    folder = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 (that is where it is)
    if reason := _unwritable(folder):
        text = tr("{folder} cannot be written: {reason}", folder=folder, reason=reason)
        yield Finding("temporary", PROBLEM, text, f"docker run --tmpfs {folder} …")
    else:
        free = shutil.disk_usage(_existing(folder)).free
        yield Finding("temporary", OK, tr("{folder}: {free} free", folder=folder, free=console.size(free)))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there already."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written there, or no folder made; None if it can. Root may write anywhere, but not to every
    file system: only trying tells.
    """
    try:
        tempfile.TemporaryFile(dir=_existing(folder)).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
