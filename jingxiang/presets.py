"""Settings that are offered for all models, as `app/presets.toml` has them; `jingxiang.models` fits them to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jingxiang import tables
from jingxiang.language import tr
from jingxiang.tables import Table

FILE = "app/presets.toml"
STANDARD = "standard"
REQUIRED = (STANDARD, "fast")
WHOLE = ("pixels", "frames", "steps", "fps", "width", "height")
SHARED = ("pixels", "frames", "steps", "fps", "guidance")
SIZE = ("width", "height")
SIDES = (256, 512, 768, 1024)  # of squares: the numbers of pixels that are offered for all models

Settings = Mapping[str, float]
Shape = tuple[float, float]


@dataclass(frozen=True)
class Adaptation:
    """What has to be otherwise for a pipeline: `shape` is width to height."""

    shape: Shape = (1, 1)
    shared: Settings = field(default_factory=dict)
    presets: Mapping[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class Presets:
    """All presets by name, in the order of the file. `cards`: GiB that a card needs, for those that are meant for some.

    Without the file, `NONE`: then each model has its own.
    """

    settings: Mapping[str, Settings]
    cards: Mapping[str, float]
    pipelines: Mapping[str, Adaptation]

    def of(self, pipeline: str, name: str) -> tuple[dict[str, float], Shape]:
        """A preset's settings for a pipeline, and the shape of its pictures."""
        adapted = self.pipelines.get(pipeline, Adaptation())
        own = adapted.presets.get(name, {})
        found = {**self.settings.get(name, {}), **adapted.shared, **own}
        if "width" in own:
            del found["pixels"]
        return found, adapted.shape

    def shape(self, pipeline: str) -> Shape:
        """Width to height of the pictures of a pipeline, unless something else is asked for."""
        return self.pipelines.get(pipeline, Adaptation()).shape

    def for_card(self, total_bytes: int) -> str:
        """The preset that a card of that size is best used with."""
        fitting = [name for name, gib in self.cards.items() if total_bytes >= gib * (1 << 30)]
        return max(fitting, key=lambda name: self.cards[name], default=STANDARD)


NONE = Presets({}, {}, {})


def load(file: Path) -> Presets:
    """Raises `TableError`."""
    root = tables.read(file, FILE)
    root.only("presets", "pipelines")
    named = root.table("presets").tables()
    for name in REQUIRED:
        root.table("presets").table(name)
    pipelines = root.optional("pipelines").tables()
    return Presets(
        settings={name: _settings(table, "card_gib") for name, table in named.items()},
        cards={name: table.number("card_gib") for name, table in named.items() if "card_gib" in table.values},
        pipelines={name: _adaptation(table, tuple(named)) for name, table in pipelines.items()},
    )


def _settings(table: Table, *besides: str) -> Settings:
    table.only(*SHARED, *besides)
    return {name: _number(table, name) for name in SHARED}


def _adaptation(table: Table, names: tuple[str, ...]) -> Adaptation:
    table.only("shape", *SHARED, "presets")
    presets = table.optional("presets")
    presets.only(*names)
    return Adaptation(
        shape=_shape(table) if "shape" in table.values else (1, 1),
        shared={name: _number(table, name) for name in SHARED if name in table.values},
        presets={name: _own(each) for name, each in presets.tables().items()},
    )


def _own(table: Table) -> Settings:
    table.only(*SHARED, *SIZE)
    if ("width" in table.values) != ("height" in table.values):
        raise table.error("width", tr("should be there with height, or both not"))
    return {name: _number(table, name) for name in table.values}


def _shape(table: Table) -> Shape:
    found = table.values["shape"]
    if not (isinstance(found, list) and len(found) == 2 and all(isinstance(side, int) and side > 0 for side in found)):
        raise table.error("shape", tr("should be two whole numbers, width and height"))
    return found[0], found[1]


def _number(table: Table, name: str) -> float:
    number = table.integer(name) if name in WHOLE else table.number(name)
    if number <= 0:
        raise table.error(name, tr("should be at least 1"))
    return number
