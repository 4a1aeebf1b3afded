"""`lock`: renew the locks in envs/locks from the specs in envs, or say which are stale and why."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jingxiang import conda_locks, console, locks, mirrors, pip_client, process, uv_client
from jingxiang.commands import conda_lock, engines
from jingxiang.environments import PYTHON
from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.fetch import resolve
from jingxiang.language import tr
from jingxiang.locks import Lock
from jingxiang.mirrors import OFFICIAL, MirrorSet, Source
from jingxiang.places import Places


@dataclass(frozen=True)
class Spec:
    """One spec, for which Pythons it is locked, and the locks whose versions it must share.

    `build`: which of PyTorch's own builds it names; none of them is offered to a spec that names the ordinary one,
    because `2.13.0+cpu` would count as a `2.13.0`.
    """

    name: str
    options: tuple[str, ...]
    build: str = ""
    constraints: tuple[str, ...] = ()


class LocksStale(JingxiangError):
    """Locks that do not fit their specs, or each other."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n       ".join(reasons), hints=("python3 tasks.py lock",))


ANYWHERE = ("--universal", "--python-version", "3.10")  # with every Python that can run the toolkit
LINUX = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
# In this order: a spec comes after those whose versions it shares.
SPECS = (
    Spec("cpu", LINUX, "cpu"),
    Spec("cuda12", LINUX, constraints=("cpu",)),
    Spec("cuda13", LINUX, constraints=("cpu",)),
    Spec("toolkit", ANYWHERE, constraints=("cpu",)),
    Spec("conda", ANYWHERE),  # shares nothing: conda-lock wants an older filelock than huggingface_hub
    Spec("kubernetes", ANYWHERE),  # nor do the SDKs of clusters and clouds, each in an environment of its own
    Spec("sky", ANYWHERE),
    Spec("aliyun", ANYWHERE),
    Spec("peers", LINUX),  # shares nothing either
    Spec("dev", LINUX, "cpu", ("toolkit", "cpu")),
)


def lock(places: Places, *, mirror: str, check: bool, upgrade: Sequence[str]) -> None:
    """Write every lock again, keeping the versions that still fit; with `check` only say which are stale, and why.

    Raises `LocksStale` (with `check`), `ProcessFailed`, `NoChannel`.
    """
    known = mirrors.chosen(places.root, mirror)
    for name in upgrade:
        _known_package(places, name)
    if check:
        _check(places)
        return
    for spec in SPECS:
        source, target = _files(places, spec)
        state = _write(target, locks.written(source, _compiled(places, spec, known, mirror, upgrade)))
        console.line("lock", f"{target.name}  {len(locks.read(target).packages)} {tr('packages')}  {state}")
    if (source := places.root / "envs" / engines.SPEC).exists():
        _lock_conda(places, source, known, mirror, upgrade)


def _lock_conda(places: Places, source: Path, known: MirrorSet, mirror: str, upgrade: Sequence[str]) -> None:
    """Where no mirror answers, a lock that fits its spec may stay as it is."""
    target = places.locks / conda_locks.NAME
    try:
        body = conda_lock.solved(places, known, mirror=mirror, upgrade=upgrade)
    except conda_lock.NoChannel as error:
        try:
            engines.lock(places)
        except JingxiangError:
            raise error from None
        console.line("lock", f"{target.name}  {tr('unchanged')}: {error.message}")
        return
    state = _write(target, locks.written(source, body))
    console.line("lock", f"{target.name}  {len(conda_locks.read(target).packages)} {tr('packages')}  {state}")


def _write(target: Path, text: str) -> str:
    """What has become of it."""
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return tr("unchanged")
    target.write_text(text, encoding="utf-8")
    return tr("written")


def _check(places: Places) -> None:
    reasons = []
    for spec in SPECS:
        source, target = _files(places, spec)
        try:
            found = locks.read(target)
            found.check_fresh(source)
        except JingxiangError as error:
            reasons.append(error.message)
            continue
        differences = [
            tr("{lock}: has {name} {version}, {other} has {other_version}", lock=_shown(target), name=name,
               version=ours, other=_shown(places.locks / f"{other}.txt"), other_version=theirs)
            for other in spec.constraints
            for name, ours, theirs in _differences(found, locks.read(places.locks / f"{other}.txt"))
        ]  # fmt: skip
        reasons += differences
        if not differences:
            console.line("lock", tr("{name} is fresh", name=target.name))
    if (places.root / "envs" / engines.SPEC).exists():
        try:
            engines.lock(places)
            console.line("lock", tr("{name} is fresh", name=conda_locks.NAME))
        except JingxiangError as error:
            reasons.append(error.message)
    if reasons:
        raise LocksStale(reasons)


def _differences(lock: Lock, other: Lock) -> Iterator[tuple[str, str, str]]:
    """Packages that both have in different versions, for the Python that both are for."""
    target = resolve.target(PYTHON)
    shared = {package.name: package.version for package in other.of_space("pypi") if target.wants(package)}
    for package in lock.of_space("pypi"):
        theirs = shared.get(package.name, package.version)
        if target.wants(package) and package.version != theirs:
            yield package.name, package.version, theirs


def _files(places: Places, spec: Spec) -> tuple[Path, Path]:
    """The spec's file and its lock's."""
    return places.root / "envs" / f"{spec.name}.in", places.locks / f"{spec.name}.txt"


def _shown(lock: Path) -> str:
    return f"envs/locks/{lock.name}"


def _known_package(places: Places, name: str) -> None:
    names = {package.name for spec in SPECS for package in locks.read(places.locks / f"{spec.name}.txt").packages}
    if (conda := places.locks / conda_locks.NAME).exists():
        names |= {package.name for package in conda_locks.read(conda).packages}
    if name not in names:
        raise UnknownName("package", name, names, where="envs/locks")


def _compiled(places: Places, spec: Spec, known: MirrorSet, mirror: str, upgrade: Sequence[str]) -> str:
    """The packages and hashes that uv finds.

    Extra indexes of pip's configuration are left out: they may list only some files of a version, and a lock must name
    all of them. Its find-links stay, because that is how an offline machine has PyTorch's builds.
    """
    python = Path(sys.executable)
    settings = {k: v for k, v in pip_client.settings(python).items() if k != "extra-index-url"}
    offered = mirror in {source.mirror for source in known.offering("pypi")}
    index = known.order("pypi", mirror if offered else OFFICIAL)[0]
    options = [*spec.options, *(f"--upgrade-package={name}" for name in upgrade)]
    failed = []
    for torch in _torch_sources(known, mirror, settings) if spec.build else [None]:
        env = uv_client.environment(index, settings)
        env.pop("UV_FIND_LINKS", None)
        if torch is not None:
            env["UV_FIND_LINKS" if torch.layout == "flat" else "UV_INDEX"] = torch.address(spec.build)
        elif spec.build and (links := settings.get("find-links")):
            env["UV_FIND_LINKS"] = links.replace(" ", ",")
        with tempfile.TemporaryDirectory() as scratch:
            output, shared = Path(scratch) / "lock.txt", Path(scratch) / "shared.txt"
            source, current = _files(places, spec)
            if current.exists():  # uv keeps the versions that it finds in the output file
                output.write_bytes(current.read_bytes())
            shared.write_text("".join(_shared(places, spec)), encoding="utf-8")
            done = uv_client.compile_lock(source, output, [*options, "--constraints", str(shared)], env)
            if not done.code:
                return output.read_text(encoding="utf-8")
            failed.append(done)
    # That one of several sources does not answer says less than that the packages do not fit together.
    told = next((each for each in failed if "No solution found" in each.stderr), failed[-1])
    raise process.ProcessFailed(f"uv pip compile envs/{spec.name}.in", told)


def _shared(places: Places, spec: Spec) -> Iterator[str]:
    """The versions that a spec must share, as pip's constraints; PyTorch's own builds are named by the specs.

    A lock for one Python says nothing of older ones, which the newest versions may not support any more.
    """
    pythons = {each.name: "" if each.options == ANYWHERE else f'python_full_version >= "{PYTHON}"' for each in SPECS}
    for name in spec.constraints:
        for package in locks.read(places.locks / f"{name}.txt").of_space("pypi"):
            markers = " and ".join(f"({marker})" for marker in (package.marker, pythons.get(name, "")) if marker)
            yield f"{package.name}=={package.version}" + (f" ; {markers}\n" if markers else "\n")


def _torch_sources(known: MirrorSet, mirror: str, settings: dict[str, str]) -> list[Source | None]:
    """Where PyTorch's builds may be listed; None is pip's find-links, first because it costs nothing to look."""
    named = [source for source in known.order("torch", mirror) if source.url]
    return [None, *named] if "find-links" in settings or not named else [*named]
