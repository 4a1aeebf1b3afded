"""A checkout whose app environment is a folder with one program, which is made from a line of shell."""

from __future__ import annotations

import json
from pathlib import Path

from jingxiang.places import Places


def with_program(folder: Path, name: str, script: str) -> Places:
    """Places below `folder`, with the environment in use."""
    found = Places(folder / "checkout", folder / "home", folder / "store")
    environment = found.environments / "i2v-cpu-12345678"
    (environment / "bin").mkdir(parents=True)
    stamp = {"profile": "cpu", "engine": "venv", "lock": "0" * 64, "python": "3.11.7", "tag": "", "files": {}}
    (environment / "jingxiang.json").write_text(json.dumps(stamp))
    program = environment / "bin" / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    found.root.mkdir()
    found.current.symlink_to(environment)
    return found
