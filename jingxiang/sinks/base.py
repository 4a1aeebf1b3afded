"""What all sinks can do, and how they fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jingxiang import console
from jingxiang.errors import JingxiangError
from jingxiang.images import Image, Layer
from jingxiang.language import tr

# Called with the number of bytes of layers that have gone to the sink since the last call; from any thread.
OnSent = Callable[[int], None]


@dataclass(frozen=True)
class Room:
    """Disk: what layers would need at most while they are taken in, and what is free (None: the sink does not say)."""

    needed_bytes: int
    free_bytes: int | None = None

    def check(self, sink: str) -> None:
        """Raise `SinkFull` if it is known that it does not suffice."""
        if self.free_bytes is not None and self.needed_bytes > self.free_bytes:
            text = tr("{needed} needed, {free} free", needed=console.size(self.needed_bytes),
                      free=console.size(self.free_bytes))  # fmt: skip
            raise SinkFull(sink, text)


class Sink(Protocol):
    """A place where images go: an engine, a registry, a folder."""

    @property
    def name(self) -> str:
        """What people read: `docker`, `registry 127.0.0.1:5000/name`."""

    @property
    def called(self) -> str:
        """What the image is called there, once it is put."""

    def check(self) -> None:
        """Raise whatever is clear before there is an image: nobody answers, no login, another thing in its place."""

    def held(self, layers: Sequence[Layer]) -> frozenset[str]:
        """Digests (`layer.blob.sha256`) of those of the lowest layers of an image that need not be sent."""

    def room(self, layers: Sequence[Layer], held: frozenset[str]) -> Room:
        """The disk that it takes to send them."""

    def has(self, image: Image) -> bool:
        """Whether the whole image is there already, by the name that it is called."""

    def put(self, image: Image, held: frozenset[str], on_sent: OnSent) -> None:
        """Send what it lacks and name the image. `held`: the answer of `held` for these layers.

        When it fails, nothing of the image is to be seen in the sink.
        """


class SinkFull(JingxiangError):
    """The disk of a sink has no room for the image."""

    def __init__(self, sink: str, reason: str) -> None:
        super().__init__(
            tr("{sink}: the disk is full: {reason}", sink=sink, reason=reason),
            hints=(tr("make room there (docker: docker system prune), or choose another place with --to"),),
        )


def missing(layers: Sequence[Layer], held: frozenset[str]) -> list[Layer]:
    """What is to be sent, each blob once."""
    found = {layer.blob.sha256: layer for layer in layers if layer.blob.sha256 not in held}
    return list(found.values())
