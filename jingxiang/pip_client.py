"""pip: what it is configured with on this machine, and one hash-checked installation without a network.

Standard library only: the bootstrap uses it with the pip that comes with Python.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

from jingxiang import process

# One run of pip for both questions: each takes a quarter of a second.
ASK = (
    "import sys; from pip._internal.models.index import PyPI; print(PyPI.simple_url, flush=True); "
    "from pip._internal.cli.main import main; sys.exit(main())"
)
FLAGS = ("--disable-pip-version-check", "--no-input")


def settings(python: Path) -> dict[str, str]:
    """pip's effective configuration (`index-url`, `extra-index-url`, `find-links`, `cert`, `proxy`, …).

    Files and PIP_* variables together, by pip's own order: environment, then `install`, then `global`; `index-url` is
    pip's own index where nothing names another.
    """
    own, *listed = process.run([python, "-c", ASK, *FLAGS, "config", "list"]).stdout.splitlines() or [""]
    merged = {"index-url": own}
    for section in ("global", "install", ":env:"):
        for line in listed:
            name, _, value = line.partition("=")
            place, _, key = name.rpartition(".")
            if place == section and value and (words := str(ast.literal_eval(value)).split()):
                merged[key] = " ".join(words)
    return merged


def install(python: Path, lock: Path, links: Path) -> None:
    """Install a lock into the environment of `python` from a folder of wheels. Never asks a network."""
    argv: list[str | Path] = [
        python, "-m", "pip", "--isolated", *FLAGS, "install", "-q", "--require-hashes", "--no-deps", "--only-binary",
        ":all:", "--no-index", "--find-links", links, "--no-cache-dir", "-r", lock,
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    process.check(argv, name="pip install", env={**env, "PIP_CONFIG_FILE": os.devnull})
