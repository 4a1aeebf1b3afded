"""Files of those who may log in: lines NAME:PASSWORD; `#` begins a comment line."""

from __future__ import annotations

from pathlib import Path

from jingxiang.errors import UsageError
from jingxiang.language import tr

LEAST = 8  # characters of a password


def text(file: Path) -> str:
    """As it is there. Raises `UsageError`."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(tr("{name}: cannot be read: {reason}", name=file, reason=reason)) from error


def read(file: Path) -> dict[str, str]:
    """Passwords by name, in their order. Raises `UsageError`."""
    found: dict[str, str] = {}
    for number, line in enumerate(text(file).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.strip().partition(":")
        if not (name and colon and len(password) >= LEAST):
            problem = tr("{name}:{number}: must be NAME:PASSWORD, with {least} characters or more in the password",
                         name=file, number=number, least=LEAST)  # fmt: skip
            raise UsageError(problem)
        if password in found.values() or name in found:
            problem = tr("{name}:{number}: a name or password is there twice", name=file, number=number)
            raise UsageError(problem)  # a program that sends the password alone would be either of them
        found[name] = password
    if not found:
        raise UsageError(tr("{name}: has no line NAME:PASSWORD", name=file))
    return found
