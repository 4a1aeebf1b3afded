"""pip as a client of mirrors: what it is configured with, what is fastest, and one hash-checked installation.

Standard library only: the bootstrap uses it with the pip that comes with Python.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable
from pathlib import Path

from jingxiang import locks, probe, process
from jingxiang.mirrors import AUTO, OFFICIAL, MirrorSet, Source
from jingxiang.redaction import redact

# Hashes make any index safe, so what is asked is only: these files, built, and nothing else.
FLAGS = ("--disable-pip-version-check", "--no-input")
INSTALL_FLAGS = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "-q")


def settings(python: Path) -> dict[str, str]:
    """pip's effective configuration (`index-url`, `extra-index-url`, `find-links`, `cert`, `proxy`, …).

    Files and PIP_* variables together, by pip's own order: environment, then `install`, then `global`.
    """
    listed = process.run([python, "-m", "pip", *FLAGS, "config", "list"]).stdout
    merged: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            place, _, key = name.rpartition(".")
            if place == section and value and (words := str(ast.literal_eval(value)).split()):
                merged[key] = " ".join(words)
    return merged


def index(python: Path) -> str:
    """The address of the index that pip asks by default."""
    configured = settings(python).get("index-url")
    if configured:
        return configured
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    return process.run([python, "-c", code]).stdout.strip()


def ranked(
    known: MirrorSet, mirror: str, lock: Path, python: Path, *, fastest: Iterable[str] = ()
) -> tuple[Source, ...]:
    """The sources of `pypi` in the order to ask: the mirror asked for, or `fastest` as measured lately, or now."""
    if mirror != AUTO:
        return known.order("pypi", mirror)
    if names := tuple(fastest):
        return known.order("pypi", AUTO, names)
    answers = probe.ask_all(pages(known, lock, python))
    return known.order("pypi", AUTO, probe.fastest(answers))


def pages(known: MirrorSet, lock: Path, python: Path) -> dict[str, probe.Page]:
    """For each mirror of `pypi`, the page of a locked package; it must list a file that the lock names."""
    package = min(locks.read(lock).packages, key=lambda each: len(each.hashes))
    asked = {}
    for source in known.offering("pypi"):
        url = source.url or index(python)
        asked[source.mirror] = probe.Page(f"{url.rstrip('/')}/{package.name}/", package.hashes[0])
    return asked


def install(python: Path, lock: Path, source: Source) -> tuple[int, str]:
    """Install a lock into the environment of `python`: the exit code and what pip said.

    A mirror's address replaces pip's index alone; the CA, the proxy and extra indexes stay as configured.
    """
    env = dict(os.environ)
    if source.mirror != OFFICIAL:
        env["PIP_INDEX_URL"] = source.url
    env.setdefault("PIP_RETRIES", "1")
    env.setdefault("PIP_DEFAULT_TIMEOUT", "15")
    done = process.run([python, "-m", "pip", *FLAGS, "install", *INSTALL_FLAGS, "-r", lock], env=env)
    return done.code, done.stderr + done.stdout


def reason(output: str) -> str:
    """pip's own last error, in one line, without passwords of addresses."""
    errors = [line.partition("ERROR:")[2].strip() for line in output.splitlines() if "ERROR:" in line]
    return redact((errors or output.strip().splitlines() or ["?"])[-1])[:300]
