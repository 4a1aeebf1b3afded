"""`warm`: a model compiled for this machine's GPU beforehand, so that its first video is made at full speed."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol, cast

from tqdm import tqdm

from app import cards, defaults
from app.artifacts import Artifact, Key, Shelf, is_of_preset
from app.texts import tr
from jingxiang import console, gpu
from jingxiang.compiled import ALWAYS, NEVER, NoGpu, NotWanted
from jingxiang.digest import short
from jingxiang.errors import JingxiangError
from jingxiang.models import ModelSpec, Preset

PATIENCE = 10  # added to its niceness, when videos are made beside it
ODD = 4  # artifacts that are kept for sizes that no preset has; each takes some hundred MB


class Compiler(Protocol):
    """What `app.adapters.compiling` does, which imports torch."""

    def key(self, spec: ModelSpec, folder: Path, preset: Preset, *, dtype: str) -> Key | None:
        """That of the artifact which `make` would give now; None where nothing is compiled."""

    def make(
        self,
        spec: ModelSpec,
        folder: Path,
        preset: Preset,
        *,
        dtype: str,
        into: Path,
        tell: Callable[[int, int], None],
    ) -> Key:
        """Compile each part of the model in `folder` for one video at a time, into the empty folder `into`. `tell` is
        called with the parts done and their number.
        """


class NotKept(JingxiangError):
    """Artifacts cannot be written where they should go."""

    def __init__(self, folder: Path, reason: str) -> None:
        text = tr("{folder}: what is compiled cannot be kept there: {reason}", folder=folder, reason=reason)
        super().__init__(text, hints=("--artifacts FOLDER",))


def number(dtype: str) -> str:
    """What the model is to compute in: `auto` is fp16 on a GPU. Raises `NoGpu`, `NotWanted`, `UsageError`."""
    mode, is_gpu = defaults.compiling(), not cards.is_cpu_build() and bool(gpu.detect().cards)
    if mode == NEVER:
        raise NotWanted
    if not (is_gpu or mode == ALWAYS):
        raise NoGpu(tr("the app can use none here"))
    return dtype if dtype != "auto" else "fp16" if is_gpu else "fp32"


def warm(
    spec: ModelSpec,
    folder: Path,
    presets: Sequence[Preset],
    *,
    shelf: Shelf,
    dtype: str,
    as_json: bool,
    compiler: Compiler | None = None,
) -> list[Artifact]:
    """Make what is not on the shelf yet of the model in `folder`. Each artifact is a line on stdout, or all of them are
    one object. `dtype`: see `number`. Besides, only the newest `ODD` for sizes that no preset has are kept. Raises
    `NoGpu`, `NotKept`.
    """
    compiler = compiler or cast(Compiler, importlib.import_module("app.adapters.compiling"))
    keys: dict[Key, Preset] = {}
    for preset in presets:
        key = compiler.key(spec, folder, preset, dtype=dtype)
        if key is None:
            raise NoGpu(tr("the app can use none here"))
        keys.setdefault(key, preset)
    rows = []
    for key, preset in keys.items():
        found, seconds = _usable(shelf, key), 0.0
        if found is None:
            found, seconds = _made(compiler, spec, folder, preset, shelf=shelf, key=key)
        else:
            console.line("compiled", tr("{shape}: there already", shape=key.shape))
        rows.append((found, seconds))
        if not as_json:
            console.data(f"{key.digest}  {key.shape}  {console.size(found.size_bytes)}  {seconds:.1f} s")
    if as_json:
        console.data_json({"artifacts": [_row(*row) for row in rows]})
    return [found for found, _ in rows]


def _made(
    compiler: Compiler, spec: ModelSpec, folder: Path, preset: Preset, *, shelf: Shelf, key: Key
) -> tuple[Artifact, float]:
    """The artifact, and the seconds that it took; 0 if another process has made it meanwhile."""
    console.line("compile", tr("{title}, {shape}: takes some minutes", title=spec.title, shape=key.shape))
    start = time.monotonic()
    try:
        with shelf.making(key):
            if there := _usable(shelf, key):
                return there, 0.0
            with shelf.draft() as into, _scratch(into.parent), _bar() as tell:
                made = compiler.make(spec, folder, preset, dtype=key.dtype, into=into, tell=tell)
                found = shelf.put(made, into)
    except OSError as error:
        raise NotKept(shelf.folder, error.strerror or str(error)) from error
    with contextlib.suppress(OSError):  # what stays costs room, no more
        _forget_others(shelf, spec, made)
    seconds = time.monotonic() - start
    console.line("compiled", tr("{shape}: {count} files, {size} in {seconds:.0f} s", shape=made.shape,
                                count=len(found.files), size=console.size(found.size_bytes),
                                seconds=seconds))  # fmt: skip
    return found, seconds


def _usable(shelf: Shelf, key: Key) -> Artifact | None:
    """What there is; nothing is said of what was left aside, since it is made anew."""
    return None if shelf.is_aside(key) else shelf.find(key)


def _forget_others(shelf: Shelf, spec: ModelSpec, key: Key) -> None:
    """What was compiled for the same, but from older code, is never used again; and of the sizes that no preset has
    there could be ever more. Raises `OSError`.
    """
    there = [each.key for each in shelf.own()]
    for older in [each for each in there if each != key and replace(each, code=key.code) == key]:
        shelf.remove(older)
        console.line("removed", tr("{digest}, which was made from older code", digest=short(older.digest)))
    sizes = [each for each in there if replace(each, width=key.width, height=key.height, frames=key.frames) == key]
    for odd in [each for each in sizes if not is_of_preset(spec, each)][ODD:]:
        shelf.remove(odd)
        console.line("removed", tr("{shape}, a size that no preset has; the newest are kept", shape=odd.shape))


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Temporary files go there meanwhile: with the draft they are gone also if we are killed."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Shows on a terminal how many parts are done."""
    with tqdm(desc=tr("parts"), file=sys.stderr, disable=None, leave=False) as bar:

        def tell(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield tell


def _row(found: Artifact, seconds: float) -> dict[str, object]:
    return {"digest": found.key.digest, "key": asdict(found.key), "files": len(found.files), "bytes": found.size_bytes,
            "seconds": round(seconds, 2)}  # fmt: skip


def end_tidily() -> None:
    """SIGTERM ends us as Ctrl-C does: nothing that we have started goes on without us."""

    def asked(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, asked)


def stand_back() -> None:
    """Be a worker's child: let videos that are made beside us go first, and end, with all that we have started, when
    the worker does. We are the first process of a group.
    """
    os.nice(PATIENCE)

    def follow() -> None:
        sys.stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=follow, daemon=True, name="stdin").start()
