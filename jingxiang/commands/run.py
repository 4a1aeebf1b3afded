"""`run` and `shell`: programs inside the environment, without anybody's start files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from jingxiang import console, environments, process
from jingxiang.commands.verify import NoEnvironment
from jingxiang.errors import UsageError
from jingxiang.language import tr
from jingxiang.places import Places

# How each shell is told to read no start files.
SHELLS = {"bash": ("--noprofile", "--norc"), "zsh": ("-f",), "fish": ("--no-config",), "sh": (), "dash": ()}
# They would lead a program out of the environment, or change what a shell does.
STRANGE = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "CONDA_PREFIX", "BASH_ENV", "ENV", "PROMPT_COMMAND")


class NoSuchProgram(UsageError):
    """Neither in the environment nor on PATH."""

    exit_code = 127  # as a shell says it

    def __init__(self, name: str) -> None:
        super().__init__(tr("{name}: no such program in the environment or on PATH", name=name))


def run(places: Places, *, words: Sequence[str]) -> NoReturn:
    """Become a program of the environment, else of PATH; it gets our terminal, signals and exit code."""
    if not words:
        raise UsageError(tr("nothing to run: python3 tasks.py run -- COMMAND …"))
    env = environment(_folder(places), os.environ)
    process.replace([_found(words[0], env), *words[1:]], env)


def shell(places: Places) -> NoReturn:
    """Become a shell in the environment: the user's own kind, if we know how to keep it from reading start files."""
    folder = _folder(places)
    env = environment(folder, os.environ)
    wanted = Path(os.environ.get("SHELL") or "bash").name
    name = next(each for each in (wanted, "bash", "sh") if each in SHELLS and shutil.which(each))
    console.line("shell", tr("{name}; leave it with: exit", name=folder.name))
    env["PS1"] = f"({folder.name}) {'%~ %# ' if name == 'zsh' else '$PWD $ '}"
    process.replace([_found(name, env), *SHELLS[name]], env)


def environment(folder: Path, outside: Mapping[str, str]) -> dict[str, str]:
    """The variables of a program in an environment: its own programs come first, nothing leads out of it."""
    kept = {name: value for name, value in outside.items() if name not in STRANGE}
    path = os.pathsep.join([str(folder / "bin"), outside.get("PATH", os.defpath)])
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(folder)}


def _folder(places: Places) -> Path:
    if environments.stamped(places.current) is None:
        raise NoEnvironment
    return places.current.resolve()


def _found(name: str, env: Mapping[str, str]) -> str:
    """The program's absolute path; a name with a slash is relative to where the user is."""
    path = shutil.which(name, path=env["PATH"])
    if path is None:
        raise NoSuchProgram(name)
    return os.path.abspath(path)  # noqa: PTH100 (`resolve` would follow the link that makes it the environment's)
