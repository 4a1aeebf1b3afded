"""How fast the disk below a folder really is. Virtual disks call themselves SSDs, so it is measured."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from jingxiang.language import tr

SAMPLE_BYTES = 256 << 20
BLOCK_BYTES = 4 << 20
SLOW_MB_S = 500.0  # weights of 5 GB take 10 s at that speed
MEMORY = ("tmpfs", "ramfs")
NETWORK = (
    "9p", "ceph", "cifs", "fuse.glusterfs", "fuse.juicefs", "fuse.s3fs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3",
)  # fmt: skip
MOUNTS = Path("/proc/self/mounts")
OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Disk:
    """Sequential speeds in MB/s, and free bytes."""

    write_mb_s: float
    read_mb_s: float
    free_bytes: int


def filesystem(folder: Path) -> str:
    """What a folder, which need not be there yet, is or will be on: `ext4`; empty if that is not known."""
    there = next(each for each in (folder, *folder.parents) if each.exists()).resolve()
    found: list[tuple[int, str]] = []
    try:
        lines = MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for _, place, kind, *_ in map(str.split, lines):
        mounted = Path(OCTAL.sub(lambda match: chr(int(match[1], 8)), place))  # blanks are written as numbers
        if mounted == there or mounted in there.parents:
            found.append((len(mounted.parts), kind))
    return max(found, key=lambda each: each[0], default=(0, ""))[1]


def caution(kind: str) -> str:
    """What speaks against a file system for large files; empty if nothing."""
    if kind in MEMORY:
        return tr("{kind}: is in memory, and gone after a restart", kind=kind)
    return tr("{kind}: is on another machine, across a network", kind=kind) if kind in NETWORK else ""


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
