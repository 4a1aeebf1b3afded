"""A sink that keeps everything in memory: for tests, with the same contract as the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jingxiang import layers
from jingxiang.images import Image, Layer
from jingxiang.sinks import base
from jingxiang.sinks.base import OnSent, Room


@dataclass(frozen=True)
class Memory:
    """`blobs`: bytes by SHA-256; `named`: images by tag."""

    tag: str = "test"
    name: str = "memory"
    blobs: dict[str, bytes] = field(default_factory=dict)
    named: dict[str, Image] = field(default_factory=dict)

    @property
    def called(self) -> str:
        return self.tag

    def check(self) -> None:
        return

    def held(self, layers: Sequence[Layer]) -> frozenset[str]:
        return frozenset(layer.blob.sha256 for layer in layers if layer.blob.sha256 in self.blobs)

    def room(self, layers: Sequence[Layer], held: frozenset[str]) -> Room:
        return Room(sum(layer.blob.size for layer in base.missing(layers, held)))

    def has(self, image: Image) -> bool:
        return self.named.get(self.tag) == image

    def put(self, image: Image, held: frozenset[str], on_sent: OnSent) -> None:
        bodies = {layer.blob.sha256: b"".join(layers.checked(layer)) for layer in base.missing(image.layers, held)}
        for body in bodies.values():
            on_sent(len(body))
        self.blobs.update(bodies)
        self.named[self.tag] = image
