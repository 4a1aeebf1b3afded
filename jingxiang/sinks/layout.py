"""A folder in the OCI image layout: what registries and other tools read as it is.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jingxiang import images, layers, storage
from jingxiang.base_images import Blob
from jingxiang.digest import canonical_json, sha256_bytes
from jingxiang.errors import TableError, UsageError
from jingxiang.folder_lock import locked
from jingxiang.images import Image, Layer
from jingxiang.language import tr
from jingxiang.sinks import base
from jingxiang.sinks.base import OnSent, Room, SinkFull

INDEX, LAYOUT = "index.json", "oci-layout"
NAMED = "org.opencontainers.image.ref.name"


class Closed(UsageError):
    """A folder that may not be written."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(tr("{folder}: cannot be written: {reason}", folder=folder, reason=reason),
                         hints=(tr("choose another folder: --to oci:FOLDER"),))  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """`tag`: the name of the image in it. Other images in the folder stay."""

    folder: Path
    tag: str

    @property
    def name(self) -> str:
        return f"oci {self.folder}"

    @property
    def called(self) -> str:
        return f"{self.folder}:{self.tag}"

    def check(self) -> None:
        there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise Closed(self.folder, os.strerror(errno.ENOTDIR if not there.is_dir() else errno.EACCES))
        self._entries()

    def held(self, layers: Sequence[Layer]) -> frozenset[str]:
        return frozenset(layer.blob.sha256 for layer in layers if self._has(layer.blob))

    def room(self, layers: Sequence[Layer], held: frozenset[str]) -> Room:
        there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        return Room(sum(each.blob.size for each in base.missing(layers, held)), shutil.disk_usage(there).free)

    def has(self, image: Image) -> bool:
        entry = next((each for each in self._entries() if self._name(each) == self.tag), {})
        blobs = (image.descriptor, image.config_descriptor, *(layer.blob for layer in image.layers))
        return entry.get("digest") == image.digest and all(map(self._has, blobs))

    def put(self, image: Image, held: frozenset[str], on_sent: OnSent) -> None:
        attached = [(each, images.referrer(image, each)) for each in image.attachments]
        with self._writing():
            (self.folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            for layer in base.missing(image.layers, held):
                self._write(layer.blob.sha256, layers.checked(layer), on_sent)
            for body in (image.config, image.manifest, *(b"{}" for _ in attached[:1]),
                         *(body for each, manifest in attached for body in (each.body, manifest))):  # fmt: skip
                self._write(sha256_bytes(body), [body], lambda count: None)
            (self.folder / LAYOUT).write_bytes(canonical_json({"imageLayoutVersion": "1.0.0"}))
            with locked(self.folder):
                entries = self._replaced(image, [manifest for _, manifest in attached])
                index = {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": entries}
                part = self.folder / f"{INDEX}.{secrets.token_hex(4)}.part"
                part.write_bytes(canonical_json(index))
                part.replace(self.folder / INDEX)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say it in the sink's name when it cannot be written."""
        try:
            yield
        except OSError as error:
            if error.errno in storage.FULL:
                raise SinkFull(self.name, os.strerror(error.errno)) from error
            if error.errno in storage.CLOSED:
                raise Closed(self.folder, os.strerror(error.errno)) from error
            raise

    def _replaced(self, image: Image, attached: Sequence[bytes]) -> list[dict[str, Any]]:
        """The entries of the index with ours in them; whoever had the name before is gone, with what was about it."""
        before = [each.get("digest") for each in self._entries() if self._name(each) == self.tag]
        about = {f"sha256:{sha256_bytes(body)}" for body in attached}
        kept = [
            each
            for each in self._entries()
            if self._name(each) != self.tag and each.get("digest") not in about and self._subject(each) not in before
        ]
        ours = {**image.descriptor.to_json(), "annotations": {NAMED: self.tag}}
        documents = [
            {**Blob(sha256_bytes(body), images.MANIFEST, len(body)).to_json(),
             "artifactType": json.loads(body)["artifactType"]}
            for body in attached
        ]  # fmt: skip
        return [*kept, ours, *documents]

    def _entries(self) -> list[dict[str, Any]]:
        """What is listed. Raises `TableError` if the folder is something else."""
        try:
            found: list[dict[str, Any]] = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))["manifests"]
        except FileNotFoundError:
            if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / "blobs").is_dir():
                raise TableError(str(self.folder), "", tr("is no image layout, and not empty")) from None
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TableError(str(self.folder / INDEX), "", tr("is not the index of an image layout")) from error
        return found

    @staticmethod
    def _name(entry: dict[str, Any]) -> str:
        return str((entry.get("annotations") or {}).get(NAMED, ""))

    def _subject(self, entry: dict[str, Any]) -> str:
        """The image that a document is about; empty for images."""
        if "artifactType" not in entry:
            return ""
        try:
            manifest = json.loads(self._path(str(entry["digest"]).removeprefix("sha256:")).read_bytes())
            return str(manifest["subject"]["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _path(self, sha256: str) -> Path:
        return self.folder / "blobs" / "sha256" / sha256

    def _has(self, blob: Blob) -> bool:
        """Blobs are put in place when they are whole and checked."""
        path = self._path(blob.sha256)
        return path.is_file() and path.stat().st_size == blob.size

    def _write(self, sha256: str, blocks: Iterable[bytes], on_sent: OnSent) -> None:
        path = self._path(sha256)
        if path.is_file() and not isinstance(blocks, Sequence):
            path.unlink()  # of another size than it should be
        part = path.with_name(f"{sha256}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as stream:
                for block in blocks:
                    stream.write(block)
                    on_sent(len(block))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
