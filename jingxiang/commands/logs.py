"""`logs`: what the app has written down, as its environment's own command shows it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from jingxiang import environments, process
from jingxiang.commands.verify import NoEnvironment
from jingxiang.places import Places


def logs(places: Places, *, summary: bool, lines: int, as_json: bool) -> NoReturn:
    """Become the app's command. Nothing is installed for that: without an environment there is no log, either."""
    if environments.stamped(places.current) is None:
        raise NoEnvironment
    argv: list[str | Path] = [
        places.current.resolve() / "bin" / "python", "-m", "app", "logs", "--outputs", places.outputs, "-n", str(lines),
        *(["--summary"] if summary else []), *(["--json"] if as_json else []),
    ]  # fmt: skip
    os.chdir(places.root)  # `-m app` must find our package, not one in the caller's folder
    process.replace(argv)
