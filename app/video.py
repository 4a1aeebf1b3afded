"""Frames to an MP4 that every browser plays: H.264, yuv420p, index in front."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from app import files, label, provenance
from app.provenance import Provenance
from app.texts import tr
from jingxiang.errors import UsageError

Frames = NDArray[np.uint8]
# mbtree off: with it, libx264's assembly gives one of several files for the same frames (measured: 3 in 30 runs), and
# equal requests must give equal bytes. It saves little in clips of two seconds.
OPTIONS = {"crf": "16", "preset": "medium", "x264-params": "mbtree=0"}


class Taken(UsageError):
    """The place of the JSON beside the video holds something that is not ours."""

    def __init__(self, path: Path) -> None:
        text = tr("{name}: is there already, and not of an earlier video", name=path.name)
        super().__init__(text, hints=(tr("give the video another name"),))


def write(
    frames: Frames,
    path: Path,
    *,
    fps: int,
    made: Provenance,
    metadata: bool = True,
    labelled: bool = False,
    producer: str = "",
) -> None:
    """Encode frames of shape (count, height, width, 3) RGB. Both sides must be even.

    With `metadata`, the file says how it was made, and NAME.json beside it does, too; without, an earlier one is
    removed. `labelled` draws the label of `app.label` on it. With a `producer`, the name or code of whoever offers the
    service, it has the field AIGC. Equal arguments give equal bytes.

    The file appears under its name only when it is complete, and never without its JSON. Raises `Taken`, `CannotWrite`,
    `BadProducer`.
    """
    if metadata:
        check(path)
    beside, text = provenance.sidecar(path), provenance.text(made)
    told = {"comment": text, "title": made.title} if metadata else {}
    if labelled:
        frames = label.draw(frames, fps=fps)
    if producer:
        told["AIGC"] = provenance.aigc(producer, _digest(text, frames))
    video = _encoded(frames, fps, told)
    if metadata:
        # The JSON first: what a crash between the two leaves is one without a video, which nobody misses.
        files.write({beside: f"{text}\n".encode(), path: video})
    else:
        files.write({path: video})
        if _is_ours(beside):
            beside.unlink(missing_ok=True)


def check(path: Path) -> None:
    """Raise `Taken` if the JSON beside a video of that name would replace a file of somebody else."""
    beside = provenance.sidecar(path)
    if os.path.lexists(beside) and not _is_ours(beside):
        raise Taken(beside)


def _is_ours(beside: Path) -> bool:
    try:
        with files.opened(beside) as file:
            return provenance.parse(file.read(provenance.MOST_BYTES + 1)) is not None
    except OSError:
        return False


def _encoded(frames: Frames, fps: int, told: Mapping[str, str]) -> bytes:
    """The whole file, from memory: ffmpeg leaves a file open when its disk is full, and cannot put the index in front
    of what it has no path to.
    """
    count, height, width, _ = frames.shape
    with _memory() as place:
        with av.open(place, "w", format="mp4", options={"movflags": "use_metadata_tags+faststart"}) as container:
            container.metadata.update(told)
            stream = container.add_stream("libx264", rate=Fraction(fps), options=OPTIONS)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[index], format="rgb24")))
            container.mux(stream.encode())
        return Path(place).read_bytes()


@contextlib.contextmanager
def _memory() -> Iterator[str]:
    """The path of a file that is in no folder."""
    descriptor = os.memfd_create("video")
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _digest(text: str, frames: Frames) -> str:
    """Of what is in a video, so that another one has another number."""
    found = hashlib.sha256(text.encode())
    found.update(np.ascontiguousarray(frames).data)
    return found.hexdigest()
