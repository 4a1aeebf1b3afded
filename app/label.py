"""The label that tells a viewer that a video was made by AI, as China's GB 45438-2025 asks for it in section 5.4.

Words with an AI element and a generation element ("AI生成"), legible, at the start of the video, for at least 2 s, and
at least 5 % of the picture's shorter side high. The English line below them is for those who do not read Chinese; alone
it would not do. A clip shorter than that carries the label from its first to its last frame.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from app.video import Frames

MASK = Path(__file__).resolve().with_name("label.png")  # drawn by ci/label.py, which names its font and licence
MASK_LETTERS = 128  # pixels that the letters "AI" are high in it; the Chinese ones are higher
SHOWN_S = 2
LEAST = 0.055  # of the shorter side: 5 % are asked for, and the edges of letters are soft
# The English line is half as high: it can be read from here on. Small pictures have less room than that.
LEGIBLE = 17
WIDEST = 0.75  # of the picture's width
# Of black behind white words: on white ground, which is the worst, they still have a contrast of 7 to 1.
PLATE = 0.65


def draw(frames: Frames, *, fps: int) -> Frames:
    """A copy of the frames, of shape (count, height, width, 3), with the label in the upper left corner of the first
    ones. Nothing else is changed.
    """
    count, height, width, _ = frames.shape
    words, plate = _words(width, height), _plate(width, height)
    left, top, right, bottom = box(width, height)
    shown = slice(0, min(count, math.ceil(SHOWN_S * fps)))
    labelled: Frames = frames.copy()
    darkened = labelled[shown, top:bottom, left:right] * (1 - PLATE * plate)
    labelled[shown, top:bottom, left:right] = np.rint(darkened + (255 - darkened) * words)
    return labelled


def box(width: int, height: int) -> tuple[int, int, int, int]:
    """Where the label is: left, top, right, bottom, in pixels."""
    margin, (columns, rows) = _margin(width, height), _size(width, height)
    padding = _padding(width, height)
    return margin, margin, margin + columns + 2 * padding, margin + rows + 2 * padding


def letters(width: int, height: int) -> int:
    """How high, in pixels, the letters "AI" are."""
    least, fitting = math.ceil(LEAST * min(width, height)), int(width * WIDEST * MASK_LETTERS / _mask().width)
    return max(least, min(LEGIBLE, fitting))


def _size(width: int, height: int) -> tuple[int, int]:
    mask, scale = _mask(), letters(width, height) / MASK_LETTERS
    return math.ceil(mask.width * scale), math.ceil(mask.height * scale)


def _margin(width: int, height: int) -> int:
    return math.ceil(0.025 * min(width, height))


def _padding(width: int, height: int) -> int:
    return math.ceil(letters(width, height) * 0.35)


def _words(width: int, height: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """How white each pixel of the box is, from 0 to 1; shape (rows, columns, 1)."""
    left, top, right, bottom = box(width, height)
    padding = _padding(width, height)
    drawn = Image.new("L", (right - left, bottom - top))
    drawn.paste(_mask().resize(_size(width, height), Image.Resampling.LANCZOS), (padding, padding))
    return np.asarray(drawn)[:, :, None] / 255


def _plate(width: int, height: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """1 on the ground of the words, 0 outside of its round corners; shape as that of the words."""
    left, top, right, bottom = box(width, height)
    columns, rows, fine = right - left, bottom - top, 4  # drawn larger: its corners are smooth when it is made smaller
    drawn = Image.new("L", (columns * fine, rows * fine))
    shape = (0, 0, drawn.width - 1, drawn.height - 1)
    ImageDraw.Draw(drawn).rounded_rectangle(shape, radius=_padding(width, height) * fine, fill=255)
    return np.asarray(drawn.reduce(fine))[:, :, None] / 255


@functools.cache
def _mask() -> Image.Image:
    with Image.open(MASK) as picture:
        picture.load()
        return picture
