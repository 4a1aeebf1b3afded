"""Draws app/examples/*.jpg again: the pictures that the page offers to whoever has none at hand.

    python -m ci.examples [FOLDER]

They are made of gradients, noise and a few shapes, by numpy and Pillow alone, and so are nobody else's: no photograph,
no font. The same program draws the same pictures on every machine, but for the last bit of a pixel.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ci.paint import (
    ASPECT,
    HEIGHT,
    WIDTH,
    Array,
    Color,
    H,
    Point,
    W,
    X,
    Y,
    below,
    blend,
    blurred,
    curve,
    drawn,
    finished,
    glow,
    gradient,
    line,
    noise,
    points,
    rgb,
    shine,
    step,
    stroke,
)

FOLDER = Path(__file__).resolve().parent.parent / "app" / "examples"
QUALITY = 84


# ---- a boat on a lake at dawn

SHORE = 0.56  # where the water begins


def boat() -> Image.Image:
    sun_x, sun_y = 0.665, 0.305
    sky = gradient([(0, (47, 92, 128)), (0.22, (122, 160, 176)), (0.36, (250, 196, 146)), (0.56, (255, 222, 170))])
    clouds = step(0.50, 0.72, noise(5, 3, 14, 5)) * step(0.42, 0.08, Y) * 0.75
    sky = blend(sky, gradient([(0, (176, 190, 200)), (0.3, (255, 214, 176)), (1, (255, 220, 180))]), clouds)
    sky = shine(sky, (255, 196, 120), glow(sun_x, sun_y, 0.30) * 0.55)
    sky = shine(sky, (255, 236, 190), glow(sun_x, sun_y, 0.085) * 0.8)
    disc = step(0.049, 0.046, np.hypot((X - sun_x) * ASPECT, Y - sun_y))
    land = blend(sky, (255, 249, 226), disc)
    ridges: list[tuple[int, float, float, float, Color]] = [  # seed, hills to a picture, top, height, color
        (21, 3, 0.30, 0.20, (172, 172, 184)), (22, 4, 0.37, 0.17, (134, 150, 166)), (23, 4, 0.42, 0.14, (92, 122, 140)),
        (24, 5, 0.475, 0.10, (56, 92, 108)), (27, 6, 0.525, 0.06, (30, 62, 76)),
    ]  # fmt: skip
    mist = rgb((250, 222, 186))
    for seed, count, top, height, color in ridges:
        edge = top + height * (line(seed, count) - 0.25) * 1.15
        mask = below(edge)
        foot = step(0.02, 0.17, Y - edge[None, :]) * 0.62 * (0.6 + 0.8 * noise(seed + 40, 4, 4, 3))
        lit = 0.16 * glow(sun_x, sun_y, 0.3)
        shade = blend(np.broadcast_to(rgb(color), (H, W, 3)), mist, np.clip(foot + lit, 0, 0.9))
        land = blend(land, shade, mask)
    land = blend(land, (252, 228, 194), np.exp(-(((Y - SHORE) / 0.022) ** 2)) * 0.62 * noise(71, 3, 8, 3) * 1.4)
    picture = np.where((Y < SHORE)[:, :, None], land, water(land, sun_x))
    picture = sampan(picture, 0.335, 0.735)
    picture = birds(picture)
    return finished(reeds(picture), 1)


def water(land: Array, sun_x: float) -> Array:
    """The land upside down, moved by small waves that grow towards us."""
    depth = np.clip((Y - SHORE) / (1 - SHORE), 0, 1)
    waves = noise(31, 5, 90, 3) - 0.5
    fine = noise(32, 26, 260, 2) - 0.5
    rows = SHORE - (Y - SHORE) * 0.92 + (waves * 0.10 + fine * 0.05) * (0.15 + depth)
    columns = X + (waves * 0.020 + fine * 0.012) * (0.2 + depth)
    mirrored = land[np.clip(rows * H, 0, SHORE * H - 1).astype(int), np.clip(columns * W, 0, W - 1).astype(int)]
    deep = gradient([(SHORE, (255, 222, 176)), (0.72, (150, 158, 158)), (1, (28, 62, 82))])
    found = blend(mirrored, deep, 0.28 + 0.42 * depth)
    path = np.exp(-(((X - sun_x) * ASPECT / (0.035 + 0.12 * depth)) ** 2))
    sparks = step(0.50, 0.62, noise(33, 22, 150, 2)) * path
    found = shine(found, (255, 190, 112), path * (0.55 - 0.25 * depth))
    found = shine(found, (255, 240, 204), sparks * (0.75 - 0.35 * depth))
    swell: Array = 1 - 0.10 * step(0.52, 0.75, noise(34, 4, 60, 3)) * depth
    return found * swell[:, :, None]


def sampan(picture: Array, x: float, y: float) -> Array:
    """A long boat with a roof, and someone with a hat who poles it."""

    def at(*places: Point) -> list[tuple[float, float]]:
        return points(*((x + dx / ASPECT, y + dy) for dx, dy in places))

    def smooth(*places: Point) -> list[tuple[float, float]]:
        return curve(*((x + dx / ASPECT, y + dy) for dx, dy in places))

    def hull(draw: ImageDraw.ImageDraw) -> None:
        rim = smooth((-0.235, -0.052), (-0.14, -0.012), (0, 0.0), (0.13, -0.01), (0.225, -0.046))
        keel = smooth((0.225, -0.046), (0.13, 0.022), (0, 0.03), (-0.13, 0.024), (-0.235, -0.052))
        draw.polygon([*rim, *keel], fill=255)

    def roof(draw: ImageDraw.ImageDraw) -> None:
        draw.polygon(smooth((-0.075, 0.004), (-0.07, -0.062), (0.0, -0.088), (0.07, -0.062), (0.075, 0.004)), fill=255)

    def someone(draw: ImageDraw.ImageDraw) -> None:
        draw.polygon(smooth((0.118, 0.0), (0.126, -0.07), (0.146, -0.118), (0.168, -0.07), (0.172, 0.0)), fill=255)
        draw.polygon(at((0.098, -0.118), (0.145, -0.160), (0.190, -0.113)), fill=255)
        draw.line(at((0.150, -0.095), (0.192, -0.070)), fill=255, width=round(0.014 * H))

    def pole(draw: ImageDraw.ImageDraw) -> None:
        draw.line(at((0.165, -0.235), (0.222, 0.085)), fill=255, width=round(0.0065 * H))

    parts: list[tuple[Callable[[ImageDraw.ImageDraw], None], Color]] = [
        (pole, (46, 42, 44)), (hull, (38, 36, 42)), (roof, (112, 78, 58)), (someone, (44, 46, 58)),
    ]  # fmt: skip
    waves = (noise(41, 6, 130, 2) - 0.5) * 0.05
    line_y = y + 0.028  # the water at the boat
    rows = np.clip((2 * line_y - Y) * H, 0, H - 1).astype(int)
    columns = np.clip((X + waves) * W, 0, W - 1).astype(int)
    fade = step(0.24, 0.0, Y - line_y) * (line_y < Y)
    for paint, color in parts:
        picture = blend(picture, color, blurred(drawn(paint)[rows, columns], 1.5) * fade * 0.62)
    for paint, color in parts:
        mask = drawn(paint) * (line_y > Y)
        picture = blend(picture, color, mask)
        lit = np.clip(mask - np.roll(mask, (5, -4), (0, 1)), 0, 1)  # the edge towards the sun
        picture = blend(picture, (255, 214, 158), blurred(lit, 1.2) * 0.85)
    for dx in (-0.045, -0.015, 0.015, 0.045):  # ribs of the roof
        rib = drawn(lambda draw, dx=dx: draw.line(at((dx, -0.078), (dx * 1.1, 0.0)), fill=255, width=3), 1.2)  # type: ignore[misc]
        picture = blend(picture, (66, 46, 40), rib * 0.6)
    ripple = drawn(lambda draw: draw.ellipse((*at((-0.24, 0.022))[0], *at((0.24, 0.040))[0]), outline=255, width=3), 2)
    return shine(picture, (255, 236, 204), ripple * 0.55 * noise(42, 14, 40, 2) * 1.6)


def birds(picture: Array) -> Array:
    for x, y, size in ((0.25, 0.17, 0.020), (0.29, 0.145, 0.016), (0.315, 0.185, 0.014), (0.21, 0.205, 0.012)):
        left = curve((x - size, y - size * 0.30), (x - size * 0.5, y - size * 0.62), (x, y))
        right = curve((x, y), (x + size * 0.55, y - size * 0.70), (x + size * 1.05, y - size * 0.45))

        def paint(draw: ImageDraw.ImageDraw, left: list[Point] = left, right: list[Point] = right) -> None:
            stroke(draw, left, 0.0022, 0.0062)
            stroke(draw, right, 0.0062, 0.0022)

        picture = blend(picture, (58, 72, 90), drawn(paint, 0.6) * 0.85)
    return picture


def reeds(picture: Array) -> Array:
    random = np.random.default_rng(55)

    def paint(draw: ImageDraw.ImageDraw) -> None:
        for _ in range(46):
            x = 1.02 - random.random() ** 1.7 * 0.24
            length, lean = 0.10 + random.random() * 0.24, (random.random() - 0.65) * 0.09
            path = curve((x, 1.02), (x + lean * 0.25, 1.02 - length * 0.6), (x + lean, 1.02 - length), count=90)
            stroke(draw, path, 0.0095, 0.0018)
            if random.random() < 0.35:
                stroke(draw, path[-60:-22], 0.013, 0.011)

    return blend(picture, (24, 44, 54), drawn(paint, 1.0) * 0.94)


# ---- lanterns at night


def lantern() -> Image.Image:
    sky = gradient([(0, (10, 16, 46)), (0.45, (26, 38, 86)), (0.8, (70, 62, 112)), (1, (96, 66, 104))])
    moon_x, moon_y, moon_r = 0.205, 0.27, 0.115
    sky = shine(sky, (150, 170, 230), glow(moon_x, moon_y, 0.33) * 0.36)
    sky = stars(sky)
    away = np.hypot((X - moon_x) * ASPECT, Y - moon_y)
    spots = step(0.45, 0.68, noise(3, 14, 9, 4)) * 0.16
    face = blend(np.broadcast_to(rgb((255, 246, 216)), (H, W, 3)), (206, 196, 190), spots)
    sky = blend(sky, face, step(moon_r + 0.003, moon_r - 0.003, away))
    sky = shine(sky, (255, 240, 205), glow(moon_x, moon_y, 0.125) * 0.30)
    veil = step(0.48, 0.80, noise(8, 3, 9, 5)) * step(0.0, 0.3, Y) * 0.34
    picture = blend(sky, (120, 116, 168), veil)
    picture = roofs(picture)
    picture = lights(picture)
    picture = branch(picture)
    for x, y, size in ((0.885, 0.40, 0.105), (0.46, 0.435, 0.125), (0.69, 0.52, 0.165)):
        picture = hung(picture, x, y, size)
    return finished(picture, 2)


def stars(sky: Array) -> Array:
    random = np.random.default_rng(12)

    def paint(draw: ImageDraw.ImageDraw) -> None:
        for _ in range(150):
            x, y, size = random.random() * W, random.random() ** 1.5 * H * 0.6, 0.6 + random.random() ** 3 * 2.2
            draw.ellipse((x - size, y - size, x + size, y + size), fill=int(90 + 165 * random.random()))

    return shine(sky, (220, 228, 255), drawn(paint, 0.7) * 0.8)


def roofs(picture: Array) -> Array:
    """A town of curved roofs below, further and nearer, with light in its windows."""
    for shade, base, scale, seed in (((46, 48, 96), 0.80, 0.8, 61), ((20, 22, 54), 0.90, 1.15, 67)):
        random = np.random.default_rng(seed)
        houses = [(x + random.random() * 0.05, random.random()) for x in np.arange(-0.05, 1.1, 0.15 * scale)]

        def paint(
            draw: ImageDraw.ImageDraw,
            houses: list[tuple[float, float]] = houses, base: float = base, scale: float = scale,
        ) -> None:  # fmt: skip
            for x, tall in houses:
                for storey in range(1 + (tall > 0.45) + (tall > 0.8)):
                    top, half = base - storey * 0.075 * scale, (0.085 - storey * 0.018) * scale
                    eave = curve(
                        (x - half, top - 0.002), (x - half * 0.6, top - 0.012 * scale), (x, top - 0.062 * scale),
                        (x + half * 0.6, top - 0.012 * scale), (x + half, top - 0.002),
                    )  # fmt: skip
                    draw.polygon(
                        [*eave, *points((x + half * 0.8, top + 0.014), (x - half * 0.8, top + 0.014))], fill=255
                    )
                    low = 1.02 if storey == 0 else top + 0.09 * scale
                    draw.rectangle((*points((x - half * 0.62, top))[0], *points((x + half * 0.62, low))[0]), fill=255)

        def windows(
            draw: ImageDraw.ImageDraw,
            houses: list[tuple[float, float]] = houses, base: float = base, scale: float = scale,
        ) -> None:  # fmt: skip
            for x, tall in houses:
                for storey in range(1 + (tall > 0.45) + (tall > 0.8)):
                    top = base - storey * 0.075 * scale
                    for dx in (-0.034, -0.012, 0.012, 0.034):
                        if (tall * 37 + dx * 91 + storey * 0.37) % 1 < 0.45:
                            left, right = x + (dx - 0.0045) * scale, x + (dx + 0.0045) * scale
                            box = points((left, top + 0.022 * scale), (right, top + 0.046 * scale))
                            draw.rectangle((*box[0], *box[1]), fill=255)

        picture = blend(picture, shade, drawn(paint, 0.8))
        lit = drawn(windows, 1.0) * drawn(paint)
        picture = blend(picture, (255, 196, 104), lit * 0.85)
        picture = shine(picture, (255, 150, 70), np.clip(blurred(lit, 14) * 1.5, 0, 1))
    return blend(picture, (92, 70, 116), step(0.80, 1.02, Y) * 0.35 * noise(15, 3, 3, 3) * 1.5)


def lights(picture: Array) -> Array:
    """Discs out of focus."""
    random = np.random.default_rng(29)
    for _ in range(34):
        x, y, size = random.random(), 0.66 + random.random() * 0.34, 0.012 + random.random() * 0.030
        color: Color = ((255, 170, 84), (255, 116, 84), (255, 208, 140), (240, 120, 150))[int(random.random() * 4)]
        away = np.hypot((X - x) * ASPECT, Y - y)
        disc = step(size + 0.003, size - 0.003, away) * (0.65 + 0.35 * step(size * 0.6, size, away))
        picture = shine(picture, color, disc * (0.10 + 0.22 * random.random()))
    return picture


def branch(picture: Array) -> Array:
    """Of a plum tree, from the right, with its flowers."""
    main = ((1.03, 0.06), (0.90, 0.115), (0.78, 0.10), (0.66, 0.15), (0.54, 0.125), (0.43, 0.165), (0.34, 0.145))
    twigs = (
        ((0.80, 0.10), (0.76, 0.055), (0.70, 0.03)), ((0.62, 0.14), (0.565, 0.075), (0.52, 0.055)),
        ((0.50, 0.14), (0.455, 0.085), (0.40, 0.075)), ((0.92, 0.11), (0.95, 0.17), (0.985, 0.20)),
    )  # fmt: skip

    def paint(draw: ImageDraw.ImageDraw) -> None:
        stroke(draw, curve(*main, count=200), 0.034, 0.007)
        for twig in twigs:
            stroke(draw, curve(*twig, count=160), 0.012, 0.004)

    wood = drawn(paint, 0.8)
    picture = blend(picture, (34, 22, 34), wood)
    edge = np.clip(wood - np.roll(wood, -5, 0), 0, 1)
    picture = blend(picture, (190, 110, 84), blurred(edge, 1.5) * 0.55)
    random = np.random.default_rng(17)
    paths = [curve(*main), *(curve(*twig) for twig in twigs)]
    for _ in range(64):
        path = paths[int(random.random() * len(paths))]
        x, y = path[int((0.15 + 0.85 * random.random()) * (len(path) - 1))]
        x, y = x + (random.random() - 0.5) * 0.022 * W, y + (random.random() - 0.5) * 0.045 * H
        picture = flower(picture, x / W, y / H, 0.012 + random.random() * 0.013, random.random() * 6.3)
    return petals(picture, random)


def flower(picture: Array, x: float, y: float, size: float, turn: float) -> Array:
    def paint(draw: ImageDraw.ImageDraw) -> None:
        for i in range(5):
            angle = turn + i * 2 * np.pi / 5
            px, py, radius = (
                x * W + np.cos(angle) * size * H * 0.62,
                y * H + np.sin(angle) * size * H * 0.62,
                size * H * 0.52,
            )
            draw.ellipse((px - radius, py - radius, px + radius, py + radius), fill=255)

    box = around(x, y, size * 2.2)
    away = np.hypot((X[box] - x) * ASPECT, Y[box] - y) / size
    mask = drawn(paint, 0.8)[box]
    color = gradient([(0, (214, 70, 96)), (0.45, (248, 158, 170)), (1.2, (255, 222, 220))], away)
    picture = picture.copy()
    picture[box] = blend(picture[box], color, mask)
    picture[box] = blend(picture[box], (255, 232, 150), step(0.24, 0.14, away))
    return picture


def around(x: float, y: float, size: float) -> tuple[slice, slice]:
    """The pixels near a place."""
    left, right, top, bottom = x - size / ASPECT, x + size / ASPECT, y - size, y + size
    return slice(max(0, int(top * H)), int(bottom * H) + 1), slice(max(0, int(left * W)), int(right * W) + 1)


def petals(picture: Array, random: np.random.Generator) -> Array:
    def paint(draw: ImageDraw.ImageDraw) -> None:
        for _ in range(16):
            x, y, size = random.random() * W, (0.25 + 0.7 * random.random()) * H, (0.004 + 0.005 * random.random()) * H
            draw.ellipse((x - size * 1.4, y - size, x + size * 1.4, y + size), fill=200)

    return blend(picture, (255, 190, 196), drawn(paint, 1.2) * 0.85)


def hung(picture: Array, x: float, y: float, size: float) -> Array:
    """A round lantern of red paper, `size` high from its middle, and its light on what is around."""
    picture = shine(picture, (255, 92, 40), glow(x, y, size * 2.1) * 0.42)
    picture = shine(picture, (255, 140, 70), glow(x, y, size * 1.15) * 0.40)
    wide = size * 1.18
    across, down = (X - x) * ASPECT / wide, (Y - y) / size
    body = step(1.012, 0.99, np.hypot(across, down))
    cord = drawn(lambda draw: draw.line(points((x, 0.12), (x, y - size)), fill=255, width=round(0.006 * H)), 0.8)
    picture = blend(picture, (52, 26, 30), cord * (Y > 0.13))
    heart = np.hypot(across * 1.05, (down - 0.12) * 1.0)
    paper = gradient(
        [
            (0, (255, 236, 164)), (0.26, (255, 186, 92)), (0.58, (240, 84, 44)), (0.86, (196, 32, 32)),
            (1.05, (120, 12, 28)),
        ],
        heart,
    )  # fmt: skip
    bulge = across / np.sqrt(np.clip(1 - down * down, 0.02, 1))  # ribs are circles seen from the side
    ribs = np.abs(np.sin(np.arcsin(np.clip(bulge, -1, 1)) * 7))
    paper = paper * (0.80 + 0.20 * step(0.0, 0.34, ribs))[:, :, None]
    paper = paper * (0.94 + 0.12 * noise(90, 30, 20, 3))[:, :, None]
    picture = blend(picture, paper, body)
    for top, bottom in ((-1.07, -0.87), (0.87, 1.07)):

        def cap(draw: ImageDraw.ImageDraw, top: float = top, bottom: float = bottom) -> None:
            half = wide * 0.42 / ASPECT
            box = points((x - half, y + top * size), (x + half, y + bottom * size))
            draw.rounded_rectangle((*box[0], *box[1]), radius=0.011 * H, fill=255)

        gold = gradient([(0, (120, 66, 24)), (0.4, (255, 210, 110)), (0.65, (214, 142, 52)), (1, (96, 50, 22))],
                        np.clip(across / 0.84 + 0.5, 0, 1))  # fmt: skip
        picture = blend(picture, gold, drawn(cap, 0.8))

    def tassel(draw: ImageDraw.ImageDraw) -> None:
        for i in range(-5, 6):
            end = (x + i * size * 0.035 / ASPECT, y + size * (1.95 - 0.02 * abs(i)))
            draw.line(points((x + i * size * 0.012 / ASPECT, y + size * 1.28), end), fill=255, width=round(0.0045 * H))
        draw.line(points((x, y + size), (x, y + size * 1.3)), fill=255, width=round(0.005 * H))
        knot = size * 0.075
        box = points((x - knot / ASPECT, y + size * 1.2), (x + knot / ASPECT, y + size * 1.35))
        draw.ellipse((*box[0], *box[1]), fill=255)

    threads = gradient([(y + size, (255, 150, 80)), (y + size * 2, (176, 30, 40))])
    return blend(picture, threads, drawn(tassel, 0.8) * 0.95)


# ---- a mountain in the evening

FIELD = 1024  # points of the height field, both ways
DEPTH = 900  # steps from us to the horizon


def mountain() -> Image.Image:
    sky = gradient([(0, (38, 60, 116)), (0.3, (112, 120, 172)), (0.52, (240, 166, 146)), (0.66, (255, 212, 160))])
    sky = shine(sky, (255, 190, 120), glow(0.10, 0.52, 0.36) * 0.5)
    high = step(0.50, 0.76, noise(4, 3, 18, 5)) * step(0.52, 0.10, Y)
    picture = blend(sky, gradient([(0, (170, 160, 196)), (0.4, (255, 186, 158)), (1, (255, 200, 160))]), high * 0.7)
    picture = massif(picture)
    for low, seed, strength in ((0.66, 81, 0.75), (0.735, 82, 0.95)):  # a sea of clouds
        bank = low + (line(seed, 5, 6, 0.55) - 0.5) * 0.12
        soft = step(0.0, 0.075, Y - bank[None, :]) * strength
        puffs = noise(seed + 4, 7, 12, 5)
        white = gradient([(0.58, (255, 214, 192)), (0.74, (216, 182, 196)), (0.95, (122, 124, 166))])
        picture = blend(picture, white * (0.88 + 0.24 * puffs)[:, :, None], np.clip(soft * (0.7 + 0.6 * puffs), 0, 1))
    return finished(pines(picture), 3)


def massif(picture: Array) -> Array:
    """A height field with snow, seen from the air: for each column, how far one sees at each height."""
    field = heights()
    slope_z, slope_x = np.gradient(field * FIELD * 0.36)
    light = np.array((-0.80, 0.46, -0.28), np.float32)
    light /= np.linalg.norm(light)
    length = np.sqrt(slope_x**2 + slope_z**2 + 1)
    lit = np.clip((-slope_x * light[0] + light[1] - slope_z * light[2]) / length, 0, 1)
    steep = 1 / length
    far = 0.30 + 1.30 * np.linspace(0, 1, DEPTH, dtype=np.float32) ** 1.3
    view = (np.arange(W, dtype=np.float32) + 0.5) / W - 0.5
    map_x = 0.5 + view[None, :] * (0.34 + far[:, None] * 0.42)
    map_z = (far[:, None] - 0.30) / 1.30 + 0 * view[None, :]
    seen = sampled(field, map_x, map_z)
    row = 0.70 - (seen - 0.34) / far[:, None] * 0.45  # where each point is on the screen
    nearest = np.minimum.accumulate(row, axis=0)  # what is behind something higher is hidden
    middle = (np.arange(H, dtype=np.float32) + 0.5) / H
    index = np.stack([np.searchsorted(-nearest[:, x], -middle, side="left") for x in range(W)], 1)
    mask = blurred((index < DEPTH).astype(np.float32), 0.8)
    index = np.minimum(index, DEPTH - 1)
    columns = np.broadcast_to(np.arange(W), (H, W))
    at_x, at_z, height = map_x[index, columns], map_z[index, columns], seen[index, columns]
    bright, flat = sampled(lit, at_x, at_z), sampled(steep, at_x, at_z)
    snow = step(0.30, 0.52, flat + (height - 0.45) * 0.55 + (noise(9, 60, 40, 3) - 0.5) * 0.30)
    rock = blend(np.broadcast_to(rgb((48, 50, 84)), (H, W, 3)), (206, 122, 98), bright * 0.9)
    white = blend(np.broadcast_to(rgb((96, 108, 164)), (H, W, 3)), (255, 214, 186), step(0.12, 0.72, bright))
    color = blend(rock, white, snow)
    color = shine(color, (255, 120, 76), bright * step(0.45, 0.85, height) * 0.22)
    haze = np.clip(1 - np.exp(-(far[index] - 0.30) * 0.85), 0, 1) * (1 - 0.45 * step(0.35, 0.85, height))
    color = blend(color, gradient([(0.2, (188, 150, 170)), (0.7, (236, 178, 164))]), haze)
    return blend(picture, color, mask)


def heights() -> Array:
    """Ridges, highest around a summit; from 0 to 1."""
    random, total, weight, keep = np.random.default_rng(77), np.zeros((FIELD, FIELD), np.float32), 0.0, 1.0
    previous: Array | float = 1.0
    for octave in range(8):
        cells = 4 * 2**octave
        coarse = Image.fromarray(random.random((cells + 1, cells + 1), np.float32))
        smooth = np.asarray(coarse.resize((FIELD, FIELD), Image.Resampling.BICUBIC)) * 2 - 1
        ridge = (1 - np.clip(np.abs(smooth) * 1.3, 0, 1)) ** 2
        total += ridge * keep * previous
        previous = np.clip(ridge * 1.6, 0, 1)
        weight, keep = weight + keep, keep * 0.47
    z, x = np.meshgrid(np.linspace(0, 1, FIELD), np.linspace(0, 1, FIELD), indexing="ij")
    summit = np.exp(-(((x - 0.58) / 0.20) ** 2) - ((z - 0.50) / 0.19) ** 2)
    shoulder = np.exp(-(((x - 0.30) / 0.15) ** 2) - ((z - 0.62) / 0.15) ** 2)
    edge = step(0.0, 0.25, np.asarray(z, np.float32))  # nothing high right in front of us
    return np.asarray(
        total / weight * edge * (0.45 + 0.85 * summit + 0.35 * shoulder) + 0.40 * summit + 0.22 * shoulder, np.float32
    )


def sampled(field: Array, x: Array, z: Array) -> Array:
    """Values between the points of a field; x and z from 0 to 1."""
    column, row = np.clip(x, 0, 1) * (FIELD - 1.001), np.clip(z, 0, 1) * (FIELD - 1.001)
    left, top = column.astype(int), row.astype(int)
    right, down = column - left, row - top
    upper = field[top, left] * (1 - right) + field[top, left + 1] * right
    lower = field[top + 1, left] * (1 - right) + field[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def pines(picture: Array) -> Array:
    """Two rows of trees on slopes in front."""
    slopes: list[tuple[int, float, float, float, Color]] = [  # seed, left height, right height, size, color
        (91, 0.80, 0.99, 0.11, (58, 66, 106)), (93, 1.04, 0.80, 0.20, (22, 28, 56)),
    ]  # fmt: skip
    for seed, left, right, size, color in slopes:
        random = np.random.default_rng(seed)
        ground = np.interp(X[0], [0, 1], [left, right]).astype(np.float32) + (line(seed, 5, 5) - 0.5) * 0.05

        def paint(
            draw: ImageDraw.ImageDraw,
            random: np.random.Generator = random, ground: Array = ground, size: float = size,
        ) -> None:  # fmt: skip
            for x in np.sort(random.random(round(9 / size)) * 1.04 - 0.02):
                foot = float(ground[int(np.clip(x, 0, 0.999) * W)]) + 0.01
                tree(draw, float(x), foot, size * (0.45 + 0.75 * random.random()), random)

        mask = np.maximum(below(ground), drawn(paint, 0.7))
        picture = blend(picture, color, mask)
        picture = blend(picture, (190, 160, 186), mask * step(0.03, 0.20, Y - ground[None, :] + 0.06) * 0.28)
    return picture


def tree(draw: ImageDraw.ImageDraw, x: float, foot: float, size: float, random: np.random.Generator) -> None:
    tiers = 9
    right: list[Point] = []
    left: list[Point] = []
    for i in range(tiers):
        y, half = foot - size * (1 - i / tiers), size * 0.022 + size * 0.20 * ((i + 0.6) / tiers) ** 0.9
        for side, edge in ((1, right), (-1, left)):
            reach = half * (0.8 + 0.4 * random.random())
            edge += [(x + side * reach * 0.35 / ASPECT, y), (x + side * reach / ASPECT, y + size / tiers * 1.1)]
    draw.polygon(points((x, foot - size * 1.06), *right, (x, foot), *reversed(left)), fill=255)


PICTURES: dict[str, Callable[[], Image.Image]] = {"boat": boat, "lantern": lantern, "mountain": mountain}


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return file.getvalue()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        body = jpeg(draw())
        (folder / f"{name}.jpg").write_bytes(body)
        sys.stderr.write(f"{name}.jpg: {WIDTH}x{HEIGHT}, {len(body):,} bytes\n")


if __name__ == "__main__":
    main()
