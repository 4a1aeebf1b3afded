"""The `venv` engine: a virtual environment of this machine's Python 3.11, filled by uv from a lock."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from jingxiang import console, pip_client, probe, process, uv_client
from jingxiang.digest import short
from jingxiang.errors import JingxiangError
from jingxiang.folder_lock import locked
from jingxiang.language import tr
from jingxiang.locks import Lock, LockedPackage
from jingxiang.mirrors import AUTO, OFFICIAL, MirrorSet, Source
from jingxiang.places import Places
from jingxiang.ranking import Ranking
from jingxiang.redaction import redact

PYTHON = "3.11"
STAMP = "jingxiang.json"
MIRROR_COLUMNS = 9

Report = Callable[[str], None]


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from; written last, so a folder that has it is complete."""

    profile: str
    engine: str
    lock: str
    python: str


@dataclass(frozen=True)
class Environment:
    """One installed lock: `environments/i2v-cpu-3f9c21ab`."""

    folder: Path
    profile: str
    lock: Lock

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def in_place(self) -> bool:
        """Whether it is complete and its Python still starts from where it was."""
        return (self.folder / STAMP).exists() and self.python.exists()


class PythonMissing(JingxiangError):
    """This machine has no Python of the version that the environment is locked for."""

    exit_code = 2

    def __init__(self, python: str) -> None:
        super().__init__(
            tr("the app's environment is locked for Python {python}, which this machine does not have", python=python),
            hints=(f"apt-get install python{python}", f".venv/bin/uv python install {python}"),
        )


class NoMirror(JingxiangError):
    """Every source failed for one space; says what each of them did wrong."""

    def __init__(self, space: str, failures: list[str]) -> None:
        head = tr("the {space} packages could not be had from any of {count} mirrors", space=space, count=len(failures))
        tail = tr("nothing was installed; what was fetched is kept")
        super().__init__(
            "\n       ".join([head, *failures, tail]),
            hints=("python3 tasks.py doctor", "python3 tasks.py setup --mirror NAME"),
        )


def plan(places: Places, profile: str, lock: Lock) -> Environment:
    return Environment(places.environments / f"i2v-{profile}-{short(lock.digest)}", profile, lock)


def build(
    environment: Environment,
    known: MirrorSet,
    mirror: str,
    *,
    toolkit_python: Path,
    show: bool,
    report: Report,
    measured: Mapping[str, Ranking] = MappingProxyType({}),
) -> list[str]:
    """Install the lock beside its final place and move it there when it is complete.

    `measured` is what is known of the mirrors' speed, by space; a space that is not in it is measured now.
    Returns for each space which mirror served it.
    """
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(environment.folder.parent), _scratch(environment.folder) as folder:
        if environment.in_place:  # made by another process while we waited
            return []
        made = uv_client.make_environment(folder, PYTHON)
        if made.code:
            raise (
                PythonMissing(PYTHON)
                if "No interpreter found" in made.stderr
                else process.ProcessFailed("uv venv", made)
            )
        settings = pip_client.settings(toolkit_python)
        served = []
        for space in ("torch", "pypi"):
            if packages := environment.lock.of_space(space):
                sources = _ordered(known, space, mirror, packages, settings, toolkit_python, measured.get(space))
                source = _from_first(sources, packages, folder, settings, show=show, report=report)
                served.append(tr("{space} from {mirror}", space=space, mirror=source.mirror))
        version = process.check([folder / "bin/python", "-V"], name="python").stdout.split()[-1]
        stamp = Stamp(environment.profile, "venv", environment.lock.digest, version)
        (folder / STAMP).write_text(json.dumps(asdict(stamp), indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(environment.folder, ignore_errors=True)  # a folder whose Python has gone
        folder.rename(environment.folder)
    return served


def point(link: Path, environment: Environment) -> None:
    """Make `.env` lead to the environment, in one step, unless it does."""
    target = os.path.relpath(environment.folder, link.parent)
    if link.is_symlink() and str(link.readlink()) == target:
        return
    part = link.with_name(f"{link.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def _ordered(
    known: MirrorSet,
    space: str,
    mirror: str,
    packages: tuple[LockedPackage, ...],
    settings: dict[str, str],
    python: Path,
    measured: Ranking | None = None,
) -> tuple[Source, ...]:
    """The sources to ask in turn. `official` can have PyTorch's builds only through pip's extra places."""
    pages = {}
    for source in known.offering(space):
        first = packages[0]
        url = source.address(first.build) or pip_client.index(python)
        if space == "pypi":
            pages[source.mirror] = probe.Page(f"{url.rstrip('/')}/{first.name}/", first.hashes[0])
        elif source.url:
            page = url if source.layout == "flat" else f"{url}/{first.name}/"
            pages[source.mirror] = probe.Page(page, f"{first.name}-{first.version}".replace("+", "%2B"))
    own = [OFFICIAL] if space == "torch" and settings.keys() & {"find-links", "extra-index-url"} else []
    if mirror == AUTO and measured:
        order = known.order(space, AUTO, [*own, *measured.names])
    elif mirror == AUTO:
        order = known.order(space, AUTO, [*own, *probe.fastest(probe.ask_all(pages))])
    else:
        order = known.order(space, mirror, own if mirror not in {s.mirror for s in known.offering(space)} else [])
    return tuple(source for source in order if space == "pypi" or source.url or own)


def _from_first(
    sources: tuple[Source, ...],
    packages: tuple[LockedPackage, ...],
    folder: Path,
    settings: dict[str, str],
    *,
    show: bool,
    report: Report,
) -> Source:
    """Install packages from the first source that can give all of them; uv keeps what the others gave."""
    failures = []
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text("".join(f"{package.line()}\n" for package in packages), encoding="utf-8")
        for source in sources:
            env = uv_client.environment(source, settings, build=packages[0].build)
            done = uv_client.install(requirements, folder / "bin/python", env, show=show)
            if not done.code:
                return source
            failures.append(f"{console.pad(source.mirror, MIRROR_COLUMNS)} {_reason(done)}")
            report(failures[-1])
    raise NoMirror(sources[0].space if sources else "torch", failures)


def _reason(done: process.Finished) -> str:
    """uv's last cause, in one line, without passwords of addresses."""
    lines = [line.strip() for line in done.tail.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("cause: ")]
    return redact((causes or lines or [tr("see above")])[-1].removeprefix("cause: "))[:200]


@contextlib.contextmanager
def _scratch(final: Path) -> Iterator[Path]:
    """A folder beside the final one, gone afterwards unless it was moved away. Left-overs of killed runs go first."""
    for old in final.parent.glob(f"{final.name}.part-*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{final.name}.part-", dir=final.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
