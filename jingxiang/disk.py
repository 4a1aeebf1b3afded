"""How fast the disk below a folder really is. Virtual disks call themselves SSDs, so it is measured."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE_BYTES = 256 << 20
BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class Disk:
    """Sequential speeds in MB/s, and free bytes."""

    write_mb_s: float
    read_mb_s: float
    free_bytes: int


def measure(folder: Path, sample_bytes: int = SAMPLE_BYTES) -> Disk:
    """Write a file to the disk, drop it from the page cache, read it again; the file is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    block = os.urandom(BLOCK_BYTES)  # a disk that compresses must not shine
    with tempfile.NamedTemporaryFile(dir=folder, prefix="speed-") as file:
        start = time.monotonic()
        for _ in range(sample_bytes // BLOCK_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.monotonic() - start
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.monotonic()
        descriptor = os.open(file.name, os.O_RDONLY)
        try:
            while os.read(descriptor, BLOCK_BYTES):
                pass
        finally:
            os.close(descriptor)
        read = time.monotonic() - start
    return Disk(sample_bytes / 1e6 / written, sample_bytes / 1e6 / read, shutil.disk_usage(folder).free)
