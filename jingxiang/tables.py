"""Typed reads of TOML. Whatever is wrong in a file is said with the file and the key's path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jingxiang import vendored
from jingxiang.errors import TableError, UnknownName
from jingxiang.language import tr

# What a value of each type is called in a message.
NAMES = {
    str: "a string", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One TOML table and where it stands. Reads check the type; `only` refuses keys that nobody reads."""

    file: str
    path: str
    values: Mapping[str, Any]

    def only(self, *allowed: str) -> None:
        """Refuse any other key: a misspelt setting must not be ignored."""
        for key in self.values:
            if key not in allowed:
                raise UnknownName("key", key, allowed, where=f"{self.file}: {self._at(key)}")

    def string(self, key: str, default: str | None = None) -> str:
        return str(self._read(key, str, default))

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self._read(key, int, default))

    def number(self, key: str, default: float | None = None) -> float:
        return float(self._read(key, float, default))

    def boolean(self, key: str, *, default: bool | None = None) -> bool:
        return bool(self._read(key, bool, default))

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self.string(key, default)
        if value not in allowed:
            raise self.error(key, tr("'{value}' is not one of {allowed}", value=value, allowed=", ".join(allowed)))
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings with at least one in it."""
        found = self._read(key, list, None)
        if not found or not all(isinstance(each, str) for each in found):
            raise self.error(key, tr("should be a list of strings"))
        return tuple(found)

    def span(self, key: str) -> tuple[float, float]:
        """A list of two numbers, the smaller one first."""
        found = self._read(key, list, None)
        are_numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in found)
        if len(found) != 2 or not are_numbers or found[0] > found[1]:
            raise self.error(key, tr("should be two numbers, the smaller one first"))
        return found[0], found[1]

    def table(self, key: str) -> Table:
        return Table(self.file, self._at(key), self._read(key, dict, None))

    def optional(self, key: str) -> Table:
        """A table, empty where there is none."""
        return self.table(key) if key in self.values else Table(self.file, self._at(key), {})

    def tables(self) -> dict[str, Table]:
        """Every key, each of which must be a table."""
        return {key: self.table(key) for key in self.values}

    def error(self, key: str, problem: str) -> TableError:
        return TableError(self.file, self._at(key), problem)

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _read(self, key: str, kind: type, default: Any) -> Any:
        value = self.values.get(key, default)
        if value is None:
            raise self.error(key, tr("is missing; it should be {kind}", kind=tr(NAMES[kind])))
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            found = tr(NAMES.get(type(value), type(value).__name__))
            raise self.error(key, tr("should be {kind}, not {found}", kind=tr(NAMES[kind]), found=found))
        return value


def read(path: Path, name: str | None = None) -> Table:
    """The whole file as a table; `name` is what messages call it (its file name)."""
    name = name or path.name
    try:
        return Table(name, "", _reader().loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TableError(name, "", tr("cannot be read: {reason}", reason=error.strerror)) from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise TableError(name, "", tr("is not valid TOML: {reason}", reason=error)) from error


def _reader() -> Any:
    """`tomllib`, or on Python 3.10 its twin `tomli`."""
    return importlib.import_module("tomllib") if sys.version_info >= (3, 11) else vendored.module("tomli")
