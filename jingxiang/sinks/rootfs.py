"""The files of an image alone, as a folder: what docker/Dockerfile copies over a base of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jingxiang import layers, storage
from jingxiang.errors import UsageError
from jingxiang.images import Image, Layer
from jingxiang.language import tr
from jingxiang.layers import Entry, Later, Tree
from jingxiang.sinks.base import OnSent, Room


class NotEmpty(UsageError):
    """A folder with something in it, which might get into the image."""

    def __init__(self, folder: Path) -> None:
        super().__init__(tr("{folder}: is not empty; choose another folder", folder=folder))


@dataclass(frozen=True)
class RootFs:
    """`folder` becomes `/` of an image. Owners are set where we may do that."""

    folder: Path

    @property
    def name(self) -> str:
        return f"rootfs {self.folder}"

    @property
    def called(self) -> str:
        return str(self.folder)

    def check(self) -> None:
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise NotEmpty(self.folder)

    def held(self, layers: Sequence[Layer]) -> frozenset[str]:
        return frozenset()

    def room(self, layers: Sequence[Layer], held: frozenset[str]) -> Room:
        there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        return Room(sum(layer.blob.size for layer in layers), shutil.disk_usage(there).free)

    def has(self, image: Image) -> bool:
        return False

    def put(self, image: Image, held: frozenset[str], on_sent: OnSent) -> None:
        self.check()
        with storage.writing(self.folder, image.size_bytes):
            self.folder.mkdir(parents=True, exist_ok=True)
            for layer in image.layers:
                assert isinstance(layer.content, (Tree, Later)), layer.title
                for entry in layer.content.entries:
                    self._write(entry)
                on_sent(layer.blob.size)

    def _write(self, entry: Entry) -> None:
        path = self.folder / entry.path
        if entry.link:
            path.symlink_to(entry.link)
        elif entry.source is None:
            path.mkdir(exist_ok=True)
        else:
            with path.open("xb") as stream:
                for block in layers.content(entry):
                    stream.write(block)
        if not entry.link:
            path.chmod(entry.mode)
            if os.geteuid() == 0:
                os.chown(path, entry.owner, entry.owner)
        os.utime(path, (layers.TIME_S, layers.TIME_S), follow_symlinks=False)
