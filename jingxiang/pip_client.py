"""pip: what it is configured with on this machine, and one hash-checked installation without a network.

Standard library only: the bootstrap uses it with the pip that comes with Python.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

from jingxiang import process

FLAGS = ("--disable-pip-version-check", "--no-input")


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


def install(python: Path, lock: Path, links: Path) -> None:
    """Install a lock into the environment of `python` from a folder of wheels. Never asks a network."""
    argv: list[str | Path] = [
        python, "-m", "pip", "--isolated", *FLAGS, "install", "-q", "--require-hashes", "--no-deps", "--only-binary",
        ":all:", "--no-index", "--find-links", links, "--no-cache-dir", "-r", lock,
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    process.check(argv, name="pip install", env={**env, "PIP_CONFIG_FILE": os.devnull})
