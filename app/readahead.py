"""Brings a model's weights from the disk before anybody reads them, so that the disk works while Python imports.

Imports neither torch nor anything else that takes long.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

STEMS = ("diffusion_pytorch_model", "model")  # of files of weights, in diffusers and in transformers
HALF = ".fp16"
PART_BYTES = 16 << 20


def weights(part: Path) -> list[Path]:
    """The files of weights of one part of a model, in its folder: those in fp16 if there are any. One, or several
    numbered ones.
    """
    files = [file for file in sorted(part.glob("*.safetensors")) if file.name.startswith(STEMS)]
    return [file for file in files if HALF in file.name] or files


def begin(model: Path) -> threading.Thread:
    """Ask for all weights of a model in a thread. What cannot be read is found when it is loaded."""
    files = [file for part in sorted(model.glob("*/")) for file in weights(part)]
    thread = threading.Thread(target=_ask, args=(files,), daemon=True, name="readahead")
    thread.start()
    return thread


def _ask(files: Iterable[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError), file.open("rb", buffering=0) as opened:
            _advise(opened)


def _advise(file: FileIO) -> None:
    """Let the kernel read all of a file; where it cannot be told, read it for nothing but its cache."""
    try:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    except (AttributeError, OSError):  # no such call, or a file system that does not know it
        place = bytearray(PART_BYTES)
        while file.readinto(place):
            pass
