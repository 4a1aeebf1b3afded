"""How fast the disk below a folder really is. Virtual disks call themselves SSDs, so it is measured."""

from __future__ import annotations

import contextlib
import json
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
NOTE, KEPT_S = "disk.json", 24 * 3600.0
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


def remembered(home: Path, folder: Path) -> float:
    """The slower of both speeds, in MB/s, of the disk of a folder: as measured within `KEPT_S`, or now.

    It is kept in our home: measuring takes a second, which a second fetch need not spend again.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    device, note, now = str(there.stat().st_dev), home / NOTE, time.time()
    known: dict[str, list[float]] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(note.read_text(encoding="utf-8")))
        slowest, measured = known.get(device, [0.0, 0.0])
        if 0 <= now - measured < KEPT_S:
            return float(slowest)
    speed = measure(folder)
    slowest = min(speed.write_mb_s, speed.read_mb_s)
    with contextlib.suppress(OSError):  # what cannot be kept is measured again
        home.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({**known, device: [round(slowest, 1), now]}) + "\n", encoding="utf-8")
    return slowest


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
