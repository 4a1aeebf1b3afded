"""Where images go: one module per kind of sink."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jingxiang.errors import UsageError
from jingxiang.language import tr

DOCKER, REGISTRY, OCI, ROOTFS = "docker", "registry", "oci", "rootfs"


class BadAddress(UsageError):
    """Not a place where images can go."""

    def __init__(self, text: str) -> None:
        super().__init__(
            tr("--to {text}: should be docker, registry://HOST/NAME, oci:FOLDER or rootfs:FOLDER", text=text),
        )


@dataclass(frozen=True)
class Address:
    """`kind`: one of the above; `rest`: HOST/NAME of a registry, a folder."""

    kind: str
    rest: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.rest).expanduser().absolute()


def address(text: str) -> Address:
    """As it is written after `--to`. Raises `BadAddress`."""
    if text == DOCKER:
        return Address(DOCKER)
    kind, _, rest = text.partition(":")
    if kind == REGISTRY and rest.startswith("//") and "/" in rest[2:].strip("/"):
        return Address(REGISTRY, rest[2:])
    if kind in (OCI, ROOTFS) and rest:
        return Address(kind, rest)
    raise BadAddress(text)
