"""Errors that a user sees: where, what is wrong, what to do. One line each, no traceback.

Parsed by Python 3.6 (see `bootstrap`): no newer syntax here.
"""

import difflib
from typing import Iterable, Sequence

from jingxiang.language import tr


class JingxiangError(Exception):
    """Something failed. `exit_code` is what the process ends with, `hints` are commands or steps to try next."""

    exit_code = 1

    def __init__(self, message: str, hints: "Sequence[str]" = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hints = tuple(hints)


class UsageError(JingxiangError):
    """Asked for in a wrong way: nothing was changed."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not there, with those that are and the nearest one."""

    def __init__(self, kind: str, name: str, known: "Iterable[str]", where: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        text = tr("no {kind} named '{name}'; there is {known}", kind=tr(kind), name=name, known=", ".join(names))
        if near:
            text += tr(" (did you mean '{near}'?)", near=near[0])
        super().__init__(where + ": " + text if where else text)


class TableError(UsageError):
    """A setting in a file that cannot be used: the file, the key's path, what is allowed."""

    def __init__(self, file: str, key: str, problem: str) -> None:
        super().__init__("{}: {}: {}".format(file, key, problem) if key else "{}: {}".format(file, problem))
