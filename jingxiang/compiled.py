"""Compiled artifacts: parts of a model, compiled for one kind of GPU and one size of video, in a folder each.

The folder is called by the digest of its key, and `manifest.json` in it holds the key, and size and SHA-256 of every
other file. The app makes and uses them (`app.artifacts`), `build-image` puts them into images. They are code: whoever
loads one runs what is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from jingxiang.digest import canonical_json, sha256_bytes, sha256_file
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.language import tr

FOLDER = "artifacts"  # in the home, and in an image
MANIFEST = "manifest.json"
FORMAT = 1
NAME = re.compile(r"[0-9a-f]{64}")
SHAPE = ("width", "height", "frames")  # the settings of a preset that a model is compiled for
ASIDE = ".aside"  # ends the name of the file beside an artifact that is not to be used
MODE = "JINGXIANG_COMPILE"
AUTO, NEVER, ALWAYS = MODES = ("auto", "never", "always")  # for a GPU; not at all; for the CPU as well


@dataclass(frozen=True)
class Key:
    """What an artifact is for: it is used for nothing else.

    `architecture`: of the GPU, such as `sm_90`, or of the CPU with its instructions, such as `x86_64-avx2`; `torch` and
    `cuda`: versions; `code`: a digest over the model's configuration and our own code; pixels and frames of one video;
    `dtype`: fp16, bf16 or fp32.
    """

    model: str
    architecture: str
    torch: str
    cuda: str
    code: str
    width: int
    height: int
    frames: int
    dtype: str

    @property
    def digest(self) -> str:
        """64 hex digits, by which it is found."""
        return sha256_bytes(canonical_json(asdict(self)))

    @property
    def shape(self) -> str:
        """`512x512x16`: width, height and frames."""
        return f"{self.width}x{self.height}x{self.frames}"


@dataclass(frozen=True)
class Artifact:
    """One that is there. `files`: names below the folder, the manifest not among them."""

    key: Key
    folder: Path
    files: tuple[str, ...]
    size_bytes: int


class NoGpu(UsageError):
    """There is nothing to compile for."""

    def __init__(self, reason: str) -> None:
        text = tr("compiling is for NVIDIA GPUs: {reason}", reason=reason)
        super().__init__(text, (tr("do it on the machine that makes the videos"), "python3 tasks.py doctor"))


class NotWanted(UsageError):
    """Somebody has said that nothing is to be compiled."""

    def __init__(self) -> None:
        super().__init__(tr("{name}=never: nothing is compiled, and nothing that was is used", name=MODE))


class Damaged(JingxiangError):
    """A folder that is not what it should be: nothing of it is used."""

    def __init__(self, folder: Path, reason: str) -> None:
        text = tr("{folder}: this compiled artifact is not used: {reason}", folder=folder, reason=reason)
        super().__init__(text)


def mode(value: str | None) -> str:
    """What the variable `MODE` says, one of `MODES`. Raises `UsageError`."""
    if value and value not in MODES:
        raise UsageError(tr("{name} must be {modes}, not '{value}'", name=MODE, modes=" | ".join(MODES), value=value))
    return value or AUTO


def candidates(shelf: Path) -> list[Path]:
    """The folders on a shelf that are called like artifacts; none where there is no such shelf."""
    try:
        return sorted(each for each in shelf.iterdir() if NAME.fullmatch(each.name))
    except OSError:
        return []


def is_aside(shelf: Path, digest: str) -> bool:
    """Whether it was left aside because it could not be used."""
    return is_there(shelf / f".{digest}{ASIDE}")


def is_there(path: Path) -> bool:
    """Also of a folder that may not be looked into: then it is not."""
    try:
        return path.exists()
    except OSError:
        return False


def manifest(key: Key, folder: Path) -> bytes:
    """What `manifest.json` says of the files that are in the folder."""
    listed = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in _there(folder)
    }
    return canonical_json({"format": FORMAT, "key": asdict(key), "files": listed})


def read(folder: Path, *, whole: bool = True) -> Artifact:
    """The artifact in a folder, every file of it compared with the manifest; not `whole`: their names and sizes alone.

    Raises `Damaged`.
    """
    try:
        return _read(folder, whole=whole)
    except OSError as error:
        name = Path(str(error.filename or folder)).name
        raise Damaged(folder, tr("{name}: cannot be read: {reason}", name=name, reason=error.strerror)) from error


def _read(folder: Path, *, whole: bool) -> Artifact:
    try:
        told = json.loads((folder / MANIFEST).read_bytes())
        version = told["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(folder, tr("{name} is none of ours", name=MANIFEST)) from None
    if version != FORMAT:
        raise Damaged(folder, tr("made by another version of jingxiang (format {format})", format=version))
    key, files = _key(told.get("key")), _files(told.get("files"))
    if key is None or files is None:
        raise Damaged(folder, tr("{name} is none of ours", name=MANIFEST))
    if key.digest != folder.name:
        raise Damaged(folder, tr("it was made for something else than its name says"))
    if links := [each for each in (folder, *sorted(folder.rglob("*"))) if each.is_symlink()]:
        raise Damaged(folder, tr("{name} is a link", name=links[0].name))  # what it leads to could be anybody's
    there = set(_there(folder))
    if more := sorted(there - files.keys()):
        raise Damaged(folder, tr("{name} is not in its manifest", name=more[0]))
    for name, (size, sha256) in files.items():
        if name not in there:
            raise Damaged(folder, tr("{name} is missing", name=name))
        found = (folder / name).stat().st_size
        if found != size:
            raise Damaged(folder, tr("{name} has {found} bytes instead of {size}", name=name, found=found, size=size))
        if whole and sha256_file(folder / name) != sha256:
            raise Damaged(folder, tr("{name} has another SHA-256", name=name))
    return Artifact(key, folder, tuple(sorted(files)), sum(size for size, _ in files.values()))


def _key(told: Any) -> Key | None:
    """None for what is no key."""
    kinds = {"str": str, "int": int}
    wanted = {each.name: kinds[str(each.type)] for each in fields(Key)}
    if not isinstance(told, dict) or told.keys() != wanted.keys():
        return None
    fits = all(type(told[name]) is kind and _is_text(str(told[name])) for name, kind in wanted.items())
    return Key(**told) if fits else None


def _files(told: Any) -> dict[str, tuple[int, str]] | None:
    """Size and SHA-256 by name; None for what is no list of files below a folder."""
    if not isinstance(told, dict):
        return None
    found = {}
    for name, of in told.items():
        path = PurePosixPath(name)
        leads_out = path.is_absolute() or ".." in path.parts or str(path) != name
        if leads_out or not _is_text(name) or not isinstance(of, dict):
            return None
        size, sha256 = of.get("bytes"), of.get("sha256")
        if type(size) is not int or not isinstance(sha256, str) or not NAME.fullmatch(sha256):
            return None
        found[name] = (size, sha256)
    return found


def _is_text(value: str) -> bool:
    """JSON may hold halves of characters, which nothing else takes."""
    return value.isascii() or value == value.encode("utf-8", "replace").decode()


def _there(folder: Path) -> Iterator[str]:
    """The names of all files below the folder but the manifest."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name != MANIFEST:
            yield name
