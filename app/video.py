"""Frames to an MP4 that every browser plays: H.264, yuv420p, index in front."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


def write(frames: Frames, path: Path, *, fps: int, settings: Mapping[str, object]) -> None:
    """Encode frames of shape (count, height, width, 3) RGB. The settings go into the file's comment as JSON.

    The file appears under its name only when it is complete.
    """
    count, height, width, _ = frames.shape
    part = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(part), "w", format="mp4", options={"movflags": "use_metadata_tags+faststart"}) as container:
            container.metadata["comment"] = json.dumps(settings, ensure_ascii=False, sort_keys=True)
            stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "16", "preset": "medium"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[index], format="rgb24")))
            container.mux(stream.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
