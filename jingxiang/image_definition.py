"""docker/image.toml: where things are in an image and how it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jingxiang import tables
from jingxiang.language import tr
from jingxiang.tables import Table

FILE = "docker/image.toml"
SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Healthcheck:
    """A command that ends with 0 while the app is well; how often, how long, from when on, and how many failures."""

    command: tuple[str, ...]
    interval_s: int
    timeout_s: int
    start_period_s: int
    retries: int

    def to_json(self) -> dict[str, Any]:
        """As the docker engine has it: times in nanoseconds."""
        return {
            "Test": ["CMD", *self.command],
            "Interval": self.interval_s * SECOND_NS,
            "Timeout": self.timeout_s * SECOND_NS,
            "StartPeriod": self.start_period_s * SECOND_NS,
            "Retries": self.retries,
        }


@dataclass(frozen=True)
class Definition:
    """The file as it is. `folder` and `outputs`: absolute paths in the image; `user`: a number, also its group's."""

    base: str
    folder: str
    outputs: str
    user: int
    port: int
    entrypoint: tuple[str, ...]
    stop_signal: str
    environment: Mapping[str, str]
    gpu: Mapping[str, str]
    healthcheck: Healthcheck
    labels: Mapping[str, str]

    @property
    def prefix(self) -> Path:
        """Where the environment is in the image."""
        return Path(self.folder, "environment")

    def settings(self, variables: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Any]:
        """Our part of an image's configuration (see `images.merged`), with more variables and labels."""
        return {
            "User": f"{self.user}:{self.user}",
            "WorkingDir": self.folder,
            "Entrypoint": list(self.entrypoint),
            "Env": {**self.environment, **variables},
            "ExposedPorts": {f"{self.port}/tcp": {}},
            "Healthcheck": self.healthcheck.to_json(),
            "Labels": {**self.labels, **labels},
            "StopSignal": self.stop_signal,
            "Volumes": {self.outputs: {}},
        }


def load(root: Path) -> Definition:
    """Raises `TableError`, `UnknownName`."""
    table = tables.read(root / FILE, FILE)
    table.only(
        "base", "folder", "outputs", "user", "port", "entrypoint", "stop_signal", "environment", "gpu", "healthcheck",
        "labels",
    )  # fmt: skip
    found = Definition(
        table.string("base"), _absolute(table, "folder"), _absolute(table, "outputs"), table.integer("user"),
        table.integer("port"), table.strings("entrypoint"), table.string("stop_signal"),
        _strings(table.table("environment")), _strings(table.table("gpu")), _healthcheck(table.table("healthcheck")),
        _strings(table.table("labels")),
    )  # fmt: skip
    if found.user <= 0:
        raise table.error("user", tr("should be from 1 on: an app has no business to be root"))
    return found


def _healthcheck(table: Table) -> Healthcheck:
    table.only("command", "interval_s", "timeout_s", "start_period_s", "retries")
    return Healthcheck(
        table.strings("command"), table.integer("interval_s"), table.integer("timeout_s"),
        table.integer("start_period_s"), table.integer("retries"),
    )  # fmt: skip


def _strings(table: Table) -> dict[str, str]:
    return {key: table.string(key) for key in table.values}


def _absolute(table: Table, key: str) -> str:
    path = table.string(key)
    if not path.startswith("/") or path != str(Path(path)) or ".." in Path(path).parts:
        raise table.error(key, tr("should be an absolute path"))
    return path
