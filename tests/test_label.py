"""app.label: what GB 45438-2025 asks of the label, measured in the pixels"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from app import label
from app.video import Frames

SIZES = [(64, 64), (128, 128), (64, 128), (256, 256), (448, 256), (384, 384), (896, 512), (512, 896), (1280, 720),
         (720, 1280), (1280, 1280)]  # fmt: skip
GROUNDS = ("white", "black", "noise")


def ground(kind: str, width: int, height: int) -> Frames:
    if kind == "noise":
        return np.random.default_rng(0).integers(0, 255, (1, height, width, 3), dtype=np.uint8)
    return np.full((1, height, width, 3), 255 if kind == "white" else 0, np.uint8)


def luminance(pixels: Frames) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Relative luminance as in WCAG 2.2, from 0 to 1."""
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    found: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return found


def runs(rows: Iterable[object]) -> list[int]:
    """How long each run of True is."""
    return [len(each) for each in "".join("x" if row else " " for row in rows).split()]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_letters_are_at_least_a_twentieth_of_the_shorter_side(width: int, height: int) -> None:
    left, top, right, bottom = label.box(width, height)
    drawn = label.draw(ground("black", width, height), fps=8)[0, top:bottom, left:right, 0]
    first_letter = drawn[:, : round((right - left) * 0.2)]  # the A of "AI", and below it that of "AI-generated"
    chinese, english = runs(first_letter.max(axis=1) > 127)
    assert chinese >= 0.05 * min(width, height)
    assert english < chinese
    assert (drawn > 127).any(axis=0).sum() > (right - left) * 0.5


@pytest.mark.parametrize("kind", GROUNDS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_can_be_read_on_any_ground_and_nothing_else_is_changed(kind: str, width: int, height: int) -> None:
    before = ground(kind, width, height)
    left, top, right, bottom = label.box(width, height)
    after = label.draw(before, fps=8)
    assert 0 < left < right < width
    assert 0 < top < bottom < height
    rest = np.ones((height, width), bool)
    rest[top:bottom, left:right] = False
    assert (after[0][rest] == before[0][rest]).all()
    bright = luminance(after[0, top:bottom, left:right])
    words = label.draw(ground("black", width, height), fps=8)[0, top:bottom, left:right, 0] > 250
    dark = label.draw(ground("white", width, height), fps=8)[0, top:bottom, left:right, 0] < 95
    assert words.any()
    assert dark.any()
    # WCAG 2.2: a contrast of 4.5 is enough for text of any size
    assert (bright[words].min() + 0.05) / (bright[dark].max() + 0.05) > 4.5


@pytest.mark.parametrize(("count", "fps", "labelled"), [(20, 8, 16), (8, 8, 8), (25, 7, 14), (1, 30, 1), (61, 30, 60)])
def test_it_is_there_from_the_start_for_two_seconds_or_throughout(count: int, fps: int, labelled: int) -> None:
    before = np.zeros((count, 64, 64, 3), np.uint8)
    after = label.draw(before, fps=fps)
    assert [bool(frame.any()) for frame in after] == [True] * labelled + [False] * (count - labelled)
    assert not before.any()


def test_a_frame_too_small_for_anybody_is_no_error() -> None:
    assert label.draw(np.zeros((1, 8, 8, 3), np.uint8), fps=8).shape == (1, 8, 8, 3)
