"""`verify`: whether an image's files are those that were put into it, by the lists that it carries.

A list is what sha256sum writes: `<64 hex>  <path below the folder of the image>`, regular files only. It can be checked
without us, too: `cd /opt/jingxiang && sha256sum --check --quiet *.sha256`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from app.texts import tr
from jingxiang import console
from jingxiang.digest import sha256_file
from jingxiang.errors import JingxiangError, UsageError

# Each list, and the folders of which it names every file.
LISTS = {
    "environment.sha256": ("environment",),
    "models.sha256": ("models",),
    "app.sha256": ("app", "jingxiang"),
    "artifacts.sha256": ("artifacts",),
}
ADDED, CHANGED, MISSING = "added", "changed", "missing"
# Gradio draws a number when it is first imported, and keeps it beside its code where it can.
WRITTEN_LATER = "/gradio/hash_seed.txt"
LINE = re.compile(rb"([0-9a-f]{64})  ([^\n]+)")


@dataclass(frozen=True, order=True)
class Difference:
    """A file, by its path below the folder, that is not as it should be."""

    path: str
    kind: str


@dataclass(frozen=True)
class Comparison:
    """How many files are there of those folders that have a list, and what is wrong with them."""

    folder: str
    files: int
    differences: tuple[Difference, ...]


class NoLists(UsageError):
    """Not the folder of an image."""

    def __init__(self, folder: Path) -> None:
        text = tr("{folder}: no lists of files ({names}): this is for images", folder=folder, names=", ".join(LISTS))
        super().__init__(text, hints=("python3 tasks.py verify",))


class BadList(JingxiangError):
    """A list that nobody wrote for this folder."""

    def __init__(self, name: str, number: int) -> None:
        folders = ", ".join(f"{top}/" for top in LISTS[name])
        text = tr("{name}: line {number} should be the SHA-256 and the path of a file in {folders}", name=name,
                  number=number, folders=folders)  # fmt: skip
        super().__init__(text)


class Differs(JingxiangError):
    """Something is not as listed; it has been printed."""

    def __init__(self, folder: str, count: int) -> None:
        hint = tr("if a new container of the same image differs, too, build or pull the image again")
        super().__init__(tr("{folder}: {count} differences from its lists", folder=folder, count=count), hints=(hint,))


def verify(folder: Path, *, as_json: bool) -> None:
    """Differences on stdout, a line each (or one JSON object); raises `Differs`, `NoLists`, `BadList`."""
    found = compare(folder)
    if as_json:
        console.data_json(asdict(found))
    else:
        for each in found.differences:
            console.data(f"{each.kind:8} {_printable(each.path)}")
    if found.differences:
        raise Differs(found.folder, len(found.differences))
    console.line("verify", tr("{count} files as locked", count=f"{found.files:,}"))


def compare(folder: Path) -> Comparison:
    """What is below the folder against its lists. Only what is found there by walking down is read, and no symbolic
    link is followed: a path in a list leads nowhere else. Raises `NoLists`, `BadList`.
    """
    listed = {name: _listed(folder, name) for name in LISTS if (folder / name).is_file()}
    if not listed:
        raise NoLists(folder)
    wanted = {path: digest for digests in listed.values() for path, digest in digests.items()}
    there = {path: size for name in listed for top in LISTS[name] for path, size in _files(folder, top)}
    wrong = [Difference(path, MISSING) for path in wanted if path not in there]
    for path, size in there.items():
        if path not in wanted and size is not None and not path.endswith(WRITTEN_LATER):
            wrong.append(Difference(path, ADDED))
        elif path in wanted and size is None:  # a link or a device in its place
            wrong.append(Difference(path, CHANGED))
    readable = {path: size for path, size in there.items() if size is not None and path in wanted}
    # The large ones first: else the last thread is still at one when the others have nothing left.
    paths = sorted(readable, key=lambda path: readable[path], reverse=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        digests = pool.map(lambda path: _digest(folder, path), paths)
        wrong += [
            Difference(path, CHANGED) for path, digest in zip(paths, digests, strict=True) if digest != wanted[path]
        ]
    files = sum(size is not None for size in there.values())
    return Comparison(str(folder), files, tuple(sorted(wrong)))


def _listed(folder: Path, name: str) -> dict[str, str]:
    """Digests by path."""
    found = {}
    for number, line in enumerate(_read(folder / name).splitlines(), 1):
        match = LINE.fullmatch(line)
        path = os.fsdecode(match[2]) if match else ""
        # Nothing outside is ever read (see `compare`), but a list that names it was not written for this folder.
        if not match or path.partition("/")[0] not in LISTS[name] or ".." in PurePosixPath(path).parts:
            raise BadList(name, number)
        found[path] = match[1].decode()
    return found


def _files(folder: Path, below: str) -> Iterator[tuple[str, int | None]]:
    """Everything but folders, by its path, with its size in bytes; None for what is no regular file."""
    try:
        with os.scandir(folder / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(folder, path)
                else:
                    regular = entry.is_file(follow_symlinks=False)
                    yield path, entry.stat(follow_symlinks=False).st_size if regular else None
    except FileNotFoundError:  # then all of it is missing
        return
    except NotADirectoryError:
        yield below, None
    except OSError as error:
        raise _unreadable(folder / below, error) from error


def _digest(folder: Path, path: str) -> str:
    try:
        return sha256_file(folder / path)
    except OSError as error:
        raise _unreadable(folder / path, error) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> JingxiangError:
    return JingxiangError(tr("{name}: cannot be read: {reason}", name=path, reason=error.strerror))


def _printable(path: str) -> str:
    """A name that is no UTF-8 must not stop the report."""
    return path.encode("utf-8", "backslashreplace").decode()
