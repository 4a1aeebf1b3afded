"""`lock`, its conda part: `conda-lock.yml` from the environment file, whichever mirror lists the packages."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from jingxiang import conda_locks, console, ordering, pip_client, process, samples
from jingxiang.commands import engines
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.mirrors import AUTO, MirrorSet, Source
from jingxiang.places import Places

SOLVER = Path(__file__).resolve().parent.parent / "engines" / "solve.py"
UNREACHABLE = 3  # what it ends with where a mirror's lists cannot be had


class NoChannel(JingxiangError):
    """No mirror has lists of packages that can be read now."""

    def __init__(self) -> None:
        super().__init__(
            tr("no mirror of conda answers now"), hints=("python3 tasks.py mirrors --probe --space conda",)
        )


def solved(places: Places, known: MirrorSet, *, mirror: str, upgrade: Sequence[str]) -> str:
    """The lock's body, as conda-lock writes it. What is locked already stays where it still fits.

    Raises `NoChannel`, `ProcessFailed` where nothing fits the environment file.
    """
    settings = pip_client.settings(Path(sys.executable))
    asked = _asked(places, known, mirror, settings)
    if not asked:
        raise NoChannel
    source, current = places.root / "envs" / engines.SPEC, places.locks / conda_locks.NAME
    words = {
        "spec": str(source), "current": str(current) if current.exists() else "", "upgrade": list(upgrade),
        "cache": str(places.home / "repodata"),
    }  # fmt: skip
    python, channels = engines.tools(places, known, mirror=mirror), conda_locks.channels(source)
    with tempfile.TemporaryDirectory() as scratch:
        job, output = Path(scratch) / "job.json", Path(scratch) / conda_locks.NAME
        for each in asked:
            addresses = {channel: each.address(channel=channel) for channel in channels}
            job.write_text(json.dumps({**words, "channels": addresses, "output": str(output)}), encoding="utf-8")
            done = process.run([python, "-I", SOLVER, job], env={**_environment(settings), "TMPDIR": scratch})
            if done.code == UNREACHABLE:
                console.line("lock", f"{each.mirror}: {done.tail.splitlines()[-1]}")
            elif done.code:
                raise process.ProcessFailed(f"lock envs/{source.name}", done)
            else:
                return output.read_text(encoding="utf-8")
    raise NoChannel


def _asked(places: Places, known: MirrorSet, mirror: str, settings: Mapping[str, str]) -> list[Source]:
    """The mirror that was asked for, then those that answer, fastest first."""
    wanted = samples.wanted((), settings["index-url"])
    answering = ordering.answering(known, "conda", mirror, home=places.home, wanted=wanted, settings=settings)
    order = known.order("conda", mirror, answering)
    return [each for each in order if each.mirror in answering or (mirror != AUTO and each.mirror == mirror)]


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours, with the proxy and the certificates that pip is set to. Nothing of conda's own settings counts."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CONDA_", "MAMBA_", "RATTLER_"))}
    if proxy := settings.get("proxy"):
        env |= {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
    if certificates := settings.get("cert"):
        env["SSL_CERT_FILE"] = certificates
    return env
