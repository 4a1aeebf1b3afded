"""`lock`: renew the locks in envs/locks from the specs in envs."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jingxiang import console, locks, mirrors, pip_client, process, uv_client
from jingxiang.errors import UnknownName
from jingxiang.language import tr
from jingxiang.mirrors import AUTO, OFFICIAL, MirrorSet, Source
from jingxiang.places import Places


@dataclass(frozen=True)
class Spec:
    """One spec, for which Pythons it is locked, and the locks whose versions it must share."""

    name: str
    options: tuple[str, ...]
    constraints: tuple[str, ...] = ()


LINUX = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
# In this order: `dev` shares the versions of the two before it.
SPECS = (
    Spec("toolkit", ("--universal", "--python-version", "3.10")),
    Spec("cpu", LINUX),
    Spec("dev", LINUX, ("toolkit", "cpu")),
)
HEADER = "# Made by `python3 tasks.py lock` from envs/{name}.in; do not edit. Hashes, never addresses.\n"


def lock(places: Places, *, mirror: str, check: bool, upgrade: Sequence[str]) -> None:
    """Write every lock again, keeping the versions that still fit; with `check` only say which are stale."""
    known = mirrors.load(places.root)
    known.check(mirror)
    for name in upgrade:
        _known_package(places, name)
    for spec in SPECS:
        source, target = places.root / "envs" / f"{spec.name}.in", places.locks / f"{spec.name}.txt"
        if check:
            locks.read(target).check_fresh(source)
            console.line("lock", tr("{name} is fresh", name=target.name))
            continue
        before = target.read_bytes() if target.exists() else b""
        text = HEADER.format(name=spec.name) + f"{locks.SPEC_LINE}{locks.spec_digest(source)}\n"
        text += _compiled(places, spec, known, mirror, upgrade)
        target.write_text(text, encoding="utf-8")
        state = tr("unchanged") if target.read_bytes() == before else tr("written")
        console.line("lock", f"{target.name}  {len(locks.read(target).packages)} {tr('packages')}  {state}")


def _known_package(places: Places, name: str) -> None:
    names = {package.name for spec in SPECS for package in locks.read(places.locks / f"{spec.name}.txt").packages}
    if name not in names:
        raise UnknownName("package", name, names, where="envs/locks")


def _compiled(places: Places, spec: Spec, known: MirrorSet, mirror: str, upgrade: Sequence[str]) -> str:
    """The packages and hashes that uv finds.

    Extra indexes of pip's configuration are left out: they may list only some files of a version, and a lock must name
    all of them. Its find-links stay, because that is how an offline machine has PyTorch's builds.
    """
    python = Path(sys.executable)
    settings = {k: v for k, v in pip_client.settings(python).items() if k != "extra-index-url"}
    index = known.order("pypi", OFFICIAL if mirror == AUTO else mirror)[0]
    options = [*spec.options, *(f"--upgrade-package={name}" for name in upgrade)]
    for name in spec.constraints:
        options += ["--constraints", str(places.locks / f"{name}.txt")]
    done = None
    for torch in _torch_sources(known, mirror, settings):
        env = uv_client.environment(index, settings)
        if torch is not None and torch.layout == "flat":
            env["UV_FIND_LINKS"] = torch.address("cpu")
        elif torch is not None:
            env["UV_INDEX"] = torch.address("cpu")
        elif links := settings.get("find-links"):
            env["UV_FIND_LINKS"] = links.replace(" ", ",")
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "lock.txt"
            current = places.locks / f"{spec.name}.txt"
            if current.exists():  # uv keeps the versions that it finds in the output file
                output.write_bytes(current.read_bytes())
            done = uv_client.compile_lock(places.root / "envs" / f"{spec.name}.in", output, options, env)
            if not done.code:
                return output.read_text(encoding="utf-8")
    assert done is not None
    raise process.ProcessFailed(f"uv pip compile envs/{spec.name}.in", done)


def _torch_sources(known: MirrorSet, mirror: str, settings: dict[str, str]) -> list[Source | None]:
    """Where PyTorch's builds may be listed; None is pip's find-links, first because it costs nothing to look."""
    named = [source for source in known.order("torch", mirror) if source.url]
    return [None, *named] if "find-links" in settings or not named else [*named]
