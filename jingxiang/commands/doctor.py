"""`doctor`: one screen about this machine, with a fix for each problem. Safe to paste into an issue."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from jingxiang import (
    __version__,
    conda_locks,
    console,
    disk,
    gpu,
    locks,
    mirrors,
    ordering,
    pip_client,
    profiles,
    samples,
)
from jingxiang.commands import engines, setup
from jingxiang.errors import JingxiangError
from jingxiang.findings import NOTE, OK, PROBLEM, Finding, show
from jingxiang.language import tr
from jingxiang.places import Places
from jingxiang.redaction import redact
from jingxiang.sinks import docker_engine

LITTLE_BYTES = 20_000_000_000  # environment, weights of one model, and room to build an image


class ProblemsFound(JingxiangError):
    """The report holds problems; each line of it says what to do."""

    def __init__(self, subjects: list[str]) -> None:
        super().__init__(tr("to be put right first: {subjects}", subjects=", ".join(subjects)))


def doctor(places: Places, *, as_json: bool) -> None:
    """Print the report; raises `ProblemsFound` if there is anything that stops `up`."""
    sections: tuple[Callable[[Places], Iterable[Finding]], ...] = (
        _machine,
        _gpu,
        _disk,
        _docker,
        _mirrors,
        _environment,
    )
    with ThreadPoolExecutor(len(sections)) as pool:
        findings = [
            _public(each) for found in pool.map(lambda section: list(section(places)), sections) for each in found
        ]
    if as_json:
        console.data_json({"version": __version__, "findings": [asdict(each) for each in findings]})
    else:
        show(findings)
    if problems := [tr(each.subject) for each in findings if each.state == PROBLEM]:
        raise ProblemsFound(problems)


def _public(finding: Finding) -> Finding:
    return replace(finding, text=redact(finding.text), fix=redact(finding.fix))


def _machine(places: Places) -> Iterable[Finding]:
    import psutil

    yield Finding("python", OK, f"{platform.python_version()} ({sys.executable})")
    release = (
        platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
        if hasattr(platform, "freedesktop_os_release")
        else ""
    )
    text = f"{release}, {platform.release()}, {platform.machine()}"
    supported = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    yield Finding(
        "system", OK if supported else PROBLEM, text, "" if supported else tr("use Linux on x86-64 (on Windows: WSL 2)")
    )
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0))
    yield Finding(
        "memory",
        OK,
        tr(
            "{cores} cores, {free} of {total} free",
            cores=cores,
            free=console.size(memory.available),
            total=console.size(memory.total),
        ),
    )


def _gpu(places: Places) -> Iterable[Finding]:
    found = gpu.detect()
    if found.problem:
        fix = tr("reinstall or load the NVIDIA driver, then try: nvidia-smi")
        yield Finding("gpu", PROBLEM, gpu.summary(found), fix)
        return
    try:
        choice = profiles.choose(profiles.AUTO, found)
    except profiles.NoneFits as error:
        yield Finding("gpu", PROBLEM, f"{gpu.summary(found)}; {error.problem}", tr("update the NVIDIA driver"))
        return
    text = tr("{card}: {title} build", card=gpu.summary(found), title=choice.profile.title)
    yield Finding("gpu", OK if found.cards else NOTE, text)


def _disk(places: Places) -> Iterable[Finding]:
    """The disk of the store; that of the home folder too, where it is another one or cannot be written."""
    store, home = _existing(places.store), _existing(places.home)
    yield _disk_below(places.store, store, "JINGXIANG_STORE")
    if home.stat().st_dev != store.stat().st_dev or not os.access(home, os.W_OK):
        yield _disk_below(places.home, home, "JINGXIANG_HOME")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there already."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _disk_below(wanted: Path, folder: Path, variable: str) -> Finding:
    """How fast and how full the disk of `folder` is, on which `wanted` is or will be."""
    fix = tr("set {variable} to a folder on a larger or faster local disk", variable=variable)
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Finding("disk", PROBLEM, tr("{folder} cannot be written", folder=wanted), fix)
    if free < 2 * disk.SAMPLE_BYTES:
        return Finding("disk", PROBLEM, tr("{folder}: {free} free", folder=wanted, free=console.size(free)), fix)
    speed = disk.measure(folder)
    text = tr("{folder}: writes {write:.0f} MB/s, reads {read:.0f} MB/s, {free} free",
              folder=wanted, write=speed.write_mb_s, read=speed.read_mb_s, free=console.size(free))  # fmt: skip
    if caution := disk.caution(disk.filesystem(folder)):
        text += f"; {caution}"
    poor = min(speed.write_mb_s, speed.read_mb_s) < disk.SLOW_MB_S or free < LITTLE_BYTES or bool(caution)
    return Finding("disk", NOTE if poor else OK, text, fix if poor else "")


def _docker(places: Places) -> Iterable[Finding]:
    engine = docker_engine.ask()
    if engine.version:
        yield Finding("docker", OK, tr("engine {version}", version=engine.version))
        return
    fixes = {
        "permission": (tr("you may not talk to the engine"), "sudo usermod -aG docker $USER"),
        "absent": (tr("no engine; images for a registry or a folder need none"), "apt-get install docker.io"),
    }
    text, fix = fixes.get(engine.problem, (engine.problem, "docker info"))
    yield Finding("docker", NOTE, text, fix)


def _mirrors(places: Places) -> Iterable[Finding]:
    try:
        known = mirrors.load(places.root)
    except JingxiangError as error:
        yield Finding("mirrors", PROBLEM, error.message, tr("correct the file"))
        return
    settings = pip_client.settings(Path(sys.executable))
    wanted = samples.wanted(locks.read(places.locks / "toolkit.txt").packages, settings["index-url"])
    answers = ordering.measure(known, ["pypi"], home=places.home, wanted=wanted, settings=settings)
    measured = {source.mirror: each for source, each in answers.items()}
    good = samples.fastest(measured)
    if not good:
        yield Finding(
            "mirrors",
            PROBLEM,
            tr("none of {names} answers", names=", ".join(measured)),
            tr("check the network and the proxy (HTTPS_PROXY)"),
        )
        return
    text = ", ".join(f"{name} {measured[name].first_s * 1000:.0f} ms" for name in good)
    silent = ", ".join(name for name in measured if name not in good)
    yield Finding("mirrors", OK, f"pypi: {text}" + (tr("; not now: {names}", names=silent) if silent else ""))


def _environment(places: Places) -> Iterable[Finding]:
    try:
        profile = profiles.choose(profiles.AUTO, gpu.detect()).profile
    except profiles.NoneFits:  # told about the card
        profile = profiles.CPU
    try:
        environment = setup.planned(places, profile.name)
        if (places.locks / conda_locks.NAME).exists():
            full = setup.planned(places, profile.name, engines.lock(places))
            environment = engines.present(environment, full) or full
    except JingxiangError as error:
        yield Finding("environment", PROBLEM, error.message, *error.hints[:1])
        return
    if environment.in_place:
        yield Finding("environment", OK, tr("{name} is in place", name=environment.name))
    else:
        yield Finding(
            "environment", NOTE, tr("{name} is not installed yet", name=environment.name), "python3 tasks.py setup"
        )
