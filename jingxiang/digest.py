"""SHA-256 of files and of values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

BLOCK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """64 lower-case hex digits of a file's content, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: object) -> bytes:
    """The one way to write a value, so that equal values have equal digests."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def short(digest: str) -> str:
    """The first 8 digits: what people see and what folder names carry."""
    return digest[:8]
