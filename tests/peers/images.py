"""Images for targets that only need to name one."""

from __future__ import annotations

from dataclasses import dataclass, field

from jingxiang.gpu import Gpus
from jingxiang.images import Image
from jingxiang.remotes.base import Choice, Images, Pack
from jingxiang.sinks.base import Sink


@dataclass
class Versions(Images):
    """Images with nothing in them, one after the other; a real registry is not needed to name them."""

    word: str = "fine"
    seen: list[Gpus] = field(default_factory=list)

    def choose(self, cards: Gpus) -> Choice:
        self.seen.append(cards)
        return Choice("smoke", "cuda12", 1, 0)

    def make(self, choice: Choice) -> Image:
        return Image((), self.word.encode(), self.word.encode())

    def put(self, image: Image, sink: Sink) -> int:
        raise AssertionError

    def push(self, image: Image, repository: str) -> str:
        return f"{repository}/{self.word}@{image.digest}"

    def pack(self, choice: Choice) -> Pack:
        raise AssertionError
