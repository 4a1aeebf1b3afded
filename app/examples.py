"""Example pictures with their prompts, as `app/examples.toml` describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.texts import tr
from jingxiang import tables
from jingxiang.errors import TableError
from jingxiang.language import LANGUAGES
from jingxiang.tables import Table

NAME = "app/examples.toml"
FILE = Path(__file__).resolve().with_name("examples.toml")


@dataclass(frozen=True)
class Example:
    """A picture, a JPEG, and the English prompt that goes with it; `titles` by language."""

    name: str
    titles: Mapping[str, str]
    prompt: str
    picture: Path


def load(file: Path = FILE) -> tuple[Example, ...]:
    """In the order of the file; pictures are in the folder `examples` beside it. Raises `TableError`, `UnknownName`."""
    folder = file.with_suffix("")
    return tuple(_example(name, table, folder) for name, table in tables.read(file, NAME).tables().items())


def _example(name: str, table: Table, folder: Path) -> Example:
    table.only("title", "prompt")
    titles = table.table("title")
    titles.only(*LANGUAGES)
    picture = folder / f"{name}.jpg"
    if not picture.is_file():
        raise TableError(NAME, table.path, tr("{file} is missing", file=f"app/{folder.name}/{picture.name}"))
    return Example(name, {each: titles.string(each) for each in LANGUAGES}, table.string("prompt"), picture)
