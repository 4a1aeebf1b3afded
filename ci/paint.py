"""Paint for ci/examples.py: colors, light, noise and shapes.

Pictures are of shape (H, W, 3), masks of (H, W), both from 0 to 1. Places are parts of the width and of the height;
sizes are parts of the height.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 768, 432
FINE = 2  # drawn so many times larger: edges are smooth when it is made smaller
W, H = WIDTH * FINE, HEIGHT * FINE

Array = np.ndarray[tuple[int, ...], np.dtype[np.floating[Any]]]
Color = tuple[int, int, int]
Point = tuple[float, float]
# Of the middle of each pixel: rows from 0 (top) to 1, columns from 0 (left) to 1.
Y: Array = ((np.arange(H, dtype=np.float32) + 0.5) / H)[:, None] * np.ones((1, W), np.float32)
X: Array = ((np.arange(W, dtype=np.float32) + 0.5) / W)[None, :] * np.ones((H, 1), np.float32)
ASPECT = W / H


def rgb(color: Color) -> Array:
    return np.array(color, np.float32) / 255


def blend(picture: Array, color: Color | Array, mask: Array | float) -> Array:
    """The picture under the color where the mask is 1."""
    paint = rgb(color) if isinstance(color, tuple) else color
    share = mask[:, :, None] if isinstance(mask, np.ndarray) else mask
    return picture + (paint - picture) * share


def shine(picture: Array, color: Color, mask: Array) -> Array:
    """The picture with light added: what is bright stays below white."""
    return 1 - (1 - picture) * (1 - rgb(color) * np.clip(mask, 0, 1)[:, :, None])


def gradient(stops: Sequence[tuple[float, Color]], along: Array = Y) -> Array:
    """Colors between the stops, along rows unless said otherwise."""
    places = [place for place, _ in stops]
    channels = [np.interp(along, places, [color[i] / 255 for _, color in stops]) for i in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def step(low: float, high: float, value: Array) -> Array:
    """0 below the one, 1 above the other, smooth between."""
    share = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def glow(x: float, y: float, radius: float) -> Array:
    """Light around a place, in parts of the height; it fades like a bell."""
    return np.exp(-(((X - x) * ASPECT) ** 2 + (Y - y) ** 2) / (2 * radius * radius)).astype(np.float32)


def noise(seed: int, columns: float, rows: float, octaves: int = 4) -> Array:
    """Clouds from 0 to 1 around a half; the coarsest are so many to a picture."""
    random, total, weight = np.random.default_rng(seed), np.zeros((H, W), np.float32), 0.0
    for octave in range(octaves):
        shape = (max(2, round(rows * 2**octave)), max(2, round(columns * 2**octave)))
        coarse = Image.fromarray(random.random(shape, np.float32))
        total += np.asarray(coarse.resize((W, H), Image.Resampling.BICUBIC)) / 2**octave
        weight += 1 / 2**octave
    return total / weight


def line(seed: int, count: float, octaves: int = 6, rough: float = 0.5) -> Array:
    """The same for one row."""
    random, total, weight = np.random.default_rng(seed), np.zeros(W, np.float32), 0.0
    for octave in range(octaves):
        points = random.random(max(4, round(count * 2**octave)), np.float32)
        bent = Image.fromarray(points[None, :]).resize((W, 1), Image.Resampling.BICUBIC)
        total += np.asarray(bent)[0] * rough**octave
        weight += rough**octave
    return total / weight


def below(edge: Array) -> Array:
    """What is under a line of W heights, its edge as soft as a pixel."""
    return np.clip((Y - edge[None, :]) * H + 0.5, 0, 1)


def drawn(paint: Callable[[ImageDraw.ImageDraw], object], blur: float = 0) -> Array:
    """A mask that Pillow draws; in its pixels the picture is W x H."""
    image = Image.new("L", (W, H))
    paint(ImageDraw.Draw(image))
    return blurred(np.asarray(image, np.float32) / 255, blur)


def blurred(mask: Array, radius: float) -> Array:
    if not radius:
        return mask
    image = Image.fromarray(np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def points(*places: Point) -> list[tuple[float, float]]:
    """In pixels."""
    return [(x * W, y * H) for x, y in places]


def curve(*places: Point, count: int = 60) -> list[tuple[float, float]]:
    """A line through all places (Catmull-Rom), in pixels."""
    ends = [places[0], *places, places[-1]]
    found = []
    for first, start, end, last in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        for t in np.linspace(0, 1, count):
            weights = (
                -t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2,
            )  # fmt: skip
            x, y = (sum(w * p[i] for w, p in zip(weights, (first, start, end, last), strict=True)) / 2 for i in (0, 1))
            found.append((x * W, y * H))
    return found


def stroke(draw: ImageDraw.ImageDraw, path: Sequence[Point], start: float, end: float) -> None:
    """A line that gets thinner, or thicker; widths in parts of the height."""
    for i, (x, y) in enumerate(path):
        radius = (start + (end - start) * i / len(path)) * H / 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def finished(picture: Array, seed: int) -> Image.Image:
    """With darker corners and a little grain, which keeps gradients from showing as bands, at its real size."""
    corners = ((X - 0.5) * 1.05) ** 2 + ((Y - 0.5) * 0.95) ** 2
    picture = picture * (1 - 0.35 * step(0.16, 0.62, corners))[:, :, None]
    small = picture.reshape(HEIGHT, FINE, WIDTH, FINE, 3).mean((1, 3))
    grain = np.random.default_rng(seed).standard_normal((HEIGHT, WIDTH, 1)) * 0.004
    return Image.fromarray(np.rint(np.clip(small + grain, 0, 1) * 255).astype(np.uint8))
