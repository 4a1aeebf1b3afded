"""Whether the folder of a model holds all of it, without reading gigabytes: names and sizes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from app.texts import tr
from jingxiang.models import ModelSpec
from jingxiang.weights import ModelLock

INDEX = "model_index.json"
# https://github.com/huggingface/safetensors#format: 8 bytes with the length of a JSON header, the header, the tensors.
HEADER = struct.Struct("<Q")
HEADER_MOST_BYTES = 100_000_000


def lacking(spec: ModelSpec, folder: Path, lock: ModelLock | None) -> list[str]:
    """What is wrong, a short text each; nothing if the model is whole. By the lock if it is locked."""
    return list(_by_lock(spec, folder, lock) if spec.weights and lock else _by_itself(folder))


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _by_lock(spec: ModelSpec, folder: Path, lock: ModelLock) -> Iterator[str]:
    assert spec.weights is not None
    for part, locked in zip(spec.weights.parts, lock.parts, strict=False):  # a stale lock has other parts
        for file in locked.files:
            yield from _wrong_size(folder, part.place(file.path), file.size)


def _by_itself(folder: Path) -> Iterator[str]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        parts = sorted(name for name, of in index.items() if isinstance(of, list) and of[0])
    except (OSError, ValueError, AttributeError, IndexError):
        yield tr("{file} is missing", file=INDEX)
        return
    yield from (tr("{file} is missing", file=f"{part}/") for part in parts if not (folder / part).is_dir())
    for path in sorted(folder.rglob("*.safetensors")):
        name = str(path.relative_to(folder))
        if not os.access(path, os.R_OK):
            yield tr("{file} may not be read", file=name)
        elif size := stated_bytes(path):
            yield from _wrong_size(folder, name, size)
        else:
            yield tr("{file} is no safetensors file", file=name)


def _wrong_size(folder: Path, name: str, size: int) -> Iterator[str]:
    try:
        there = (folder / name).stat().st_size
    except OSError:
        yield tr("{file} is missing", file=name)
        return
    if there != size:
        yield tr("{file} has {there} bytes instead of {size}", file=name, there=there, size=size)
    elif not os.access(folder / name, os.R_OK):
        yield tr("{file} may not be read", file=name)


def stated_bytes(path: Path) -> int:
    """How large a .safetensors file must be, by its own header; 0 if that cannot be read."""
    try:
        with path.open("rb") as file:
            (length,) = HEADER.unpack(file.read(HEADER.size))
            header = json.loads(file.read(length)) if length <= HEADER_MOST_BYTES else {}
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return int(HEADER.size + length + max(ends))
    except (OSError, ValueError, struct.error, KeyError, TypeError, IndexError, AttributeError):
        return 0
