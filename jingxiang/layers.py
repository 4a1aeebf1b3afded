"""Layers: folders as tars whose bytes depend on nothing but names, contents and what may be executed.

Sorted, parents first; owner 0 unless said otherwise; modes 0644 and 0755; one time for all. Made while they are read:
a layer is nowhere on the disk. https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jingxiang import images, storage
from jingxiang.base_images import Blob
from jingxiang.digest import BLOCK_BYTES, sha256_bytes
from jingxiang.errors import JingxiangError
from jingxiang.images import Layer
from jingxiang.language import tr

# When every file was changed last: 1980-01-02, since archives in the zip format begin in 1980. Not SOURCE_DATE_EPOCH: a
# layer of weights must not be another one because the code was committed on another day.
TIME_S = 315_619_200
FORMAT = 1  # of the tars; part of what digests are remembered by
FOLDER_MODE, FILE_MODE, PROGRAM_MODE = 0o755, 0o644, 0o755
Look = tuple[int, int, int, int]  # device, inode, size, time of last change in ns


class Changed(JingxiangError):
    """A file, or a layer, is not what it was when the image was planned."""

    def __init__(self, what: Path | str) -> None:
        super().__init__(
            tr("{what}: has changed while the image was made", what=what),
            hints=(tr("do the same again when nothing else works on it"),),
        )


class Entry(NamedTuple):
    """A file (`source`: its bytes, or the name of the file that has them), a symbolic link (`link`), or else a folder.

    `path`: in the image, without a leading slash; `look`: of a source on the disk. Names are plain strings here: an
    environment has 45,000 of them, and objects would take longer than all else.
    """

    path: str
    mode: int = FOLDER_MODE
    source: str | bytes | None = None
    link: str = ""
    owner: int = 0
    size: int = 0
    look: Look | None = None

    @property
    def header(self) -> bytes:
        """POSIX.1-2001, which for nearly all files is plain ustar."""
        member = tarfile.TarInfo(self.path)
        member.mtime, member.mode, member.uid, member.gid = TIME_S, self.mode, self.owner, self.owner
        member.size = self.size
        if self.link:
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, self.link, 0o777
        elif self.source is None:
            member.type = tarfile.DIRTYPE
        return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

    @property
    def key(self) -> list[object]:
        """What it is remembered by."""
        content = sha256_bytes(self.source) if isinstance(self.source, bytes) else self.look
        return [self.path, self.mode, self.link, self.owner, content]


@dataclass(frozen=True)
class Tree:
    """What a layer is made of, in order."""

    entries: tuple[Entry, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """The same for the same tar, as long as nobody writes into a file and then sets back its time."""
        keys = [FORMAT, TIME_S, [each.key for each in self.entries]]
        return sha256_bytes(json.dumps(keys).encode())  # in ASCII, which can say also what is no text

    def blocks(self) -> Iterator[bytes]:
        """The tar. Raises `Changed`."""
        waiting = bytearray()
        for entry in self.entries:
            waiting += entry.header
            for block in content(entry):
                if len(waiting) + len(block) > BLOCK_BYTES and waiting:
                    yield bytes(waiting)
                    waiting.clear()
                if len(block) >= BLOCK_BYTES:
                    yield block
                else:
                    waiting += block
            waiting += bytes(-entry.size % tarfile.BLOCKSIZE)
        yield bytes(waiting + bytes(2 * tarfile.BLOCKSIZE))


@dataclass(frozen=True)
class Later:
    """A tree that is made when it is needed; `key` stands for it until then."""

    key: str
    make: Callable[[], Tree]

    @functools.cached_property
    def tree(self) -> Tree:
        return self.make()

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.tree.entries

    @property
    def fingerprint(self) -> str:
        return sha256_bytes(json.dumps([FORMAT, TIME_S, self.key]).encode())

    def blocks(self) -> Iterator[bytes]:
        return self.tree.blocks()


@dataclass(frozen=True)
class FileContent:
    """A file of the store, as it is."""

    path: Path

    def blocks(self) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block


def file(path: str, source: Path | str, look: os.stat_result | None = None) -> Entry:
    """A file from the disk."""
    found = look or Path(source).stat()
    mode = PROGRAM_MODE if found.st_mode & 0o111 else FILE_MODE
    seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return Entry(path, mode, str(source), size=found.st_size, look=seen)


def text(path: str, body: bytes) -> Entry:
    """A file that is made here."""
    return Entry(path, FILE_MODE, body, size=len(body))


def link(path: str, target: str) -> Entry:
    return Entry(path, link=target)


def folder(path: str, owner: int = 0) -> Entry:
    return Entry(path, owner=owner)


def below(root: Path, prefix: str) -> list[Entry]:
    """Every file and link below a folder, as it will be below `prefix`; and folders, which may be empty."""
    found: list[Entry] = []
    _collect(str(root), prefix, found)
    return found


def _collect(root: str, prefix: str, found: list[Entry]) -> None:
    with os.scandir(root) as entries:
        for each in entries:
            path = f"{prefix}/{each.name}"
            if each.is_symlink():
                found.append(link(path, os.readlink(each.path)))  # noqa: PTH115
            elif each.is_dir():
                found.append(folder(path))
                _collect(each.path, path, found)
            else:
                found.append(file(path, each.path, each.stat()))


def tree(entries: Iterable[Entry]) -> Tree:
    """In the order of their paths, with the folders that they are in. Of two with one path the later one counts."""
    found = {entry.path: entry for entry in entries}
    for path in list(found):
        while (path := path.rpartition("/")[0]) and path not in found:
            found[path] = folder(path)
    return Tree(tuple(found[path] for path in sorted(found, key=os.fsencode)))


class Digests:
    """Digests and sizes of tars that were made before, by their fingerprints: what has not changed is not read again.

    Each is a small file, so that any number of processes may add some.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, made: Tree | Later) -> tuple[str, int] | None:
        """SHA-256 and size, if it was read before."""
        try:
            digest, size = json.loads(self._file(made).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return str(digest), int(size)

    def of(self, made: Tree | Later) -> tuple[str, int]:
        """SHA-256 and size; reads it if need be."""
        if found := self.known(made):
            return found
        digest, size = hashlib.sha256(), 0
        for block in made.blocks():
            digest.update(block)
            size += len(block)
        path = self._file(made)
        with storage.writing(self._folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
            part.write_text(json.dumps([digest.hexdigest(), size]), encoding="utf-8")
            part.replace(path)
        return digest.hexdigest(), size

    def layers(self, kind: str, trees: Sequence[tuple[str, Tree | Later]]) -> tuple[Layer, ...]:
        """The layers of trees, each with its title; what was never read is read on all cores."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return tuple(pool.map(lambda each: self.layer(kind, *each), trees))

    def layer(self, kind: str, title: str, made: Tree | Later) -> Layer:
        """The layer of a tree."""
        digest, size = self.of(made)
        return Layer(kind, title, Blob(digest, images.TAR, size), digest, made)

    def _file(self, made: Tree | Later) -> Path:
        fingerprint = made.fingerprint
        return self._folder / fingerprint[:2] / fingerprint


def checked(layer: Layer) -> Iterator[bytes]:
    """The bytes of a layer's blob, and an error at the end if they are not those that its digest stands for: for sinks
    that do not look themselves. Raises `Changed`."""
    digest = hashlib.sha256()
    for block in layer.content.blocks():
        digest.update(block)
        yield block
    if digest.hexdigest() != layer.blob.sha256:
        raise Changed(f"{layer.kind} {layer.title}")


def content(entry: Entry) -> Iterator[bytes]:
    """The bytes of a file. Raises `Changed`."""
    if isinstance(entry.source, bytes):
        yield entry.source
        return
    if entry.source is None:
        return
    left = entry.size
    try:
        with open(entry.source, "rb", buffering=0) as stream:  # noqa: PTH123
            while block := stream.read(BLOCK_BYTES):
                left -= len(block)
                yield block
    except FileNotFoundError:
        raise Changed(entry.source) from None
    if left:
        raise Changed(entry.source)
