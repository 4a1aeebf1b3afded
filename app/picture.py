"""Reading a user's picture safely, and cutting it to the video's shape."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from app import files
from app.texts import tr
from jingxiang.digest import sha256_bytes
from jingxiang.errors import UsageError

MAX_BYTES = 20 << 20
# More than any camera gives; an image of this size takes 150 MB once unpacked. Larger ones are mostly bombs.
MAX_PIXELS = 50_000_000
# Twice the longest side that any model can make: of a picture that is twice as wide as high, a square is still cut
# without being made larger.
LONGEST = 2560
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# How a picture is turned upright, by its orientation (Exif 3.0, 4.6.5). Pillow's own way writes the metadata anew, and
# stumbles over those of hostile files.
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Those of printers, which are the largest, have 0.5 to 3 MB.
MAX_PROFILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Normalized:
    """`sha256`: of the file as it was given; `png`: what it shows, and nothing else that was in it."""

    sha256: str
    png: bytes


class BadPicture(UsageError):
    """A file that is not a picture we take."""


def read(path: Path) -> Image.Image:
    """The picture as `decoded` gives it. Raises `BadPicture`."""
    return decoded(given(path), path.name)


def normalized(data: bytes, name: str) -> Normalized:
    """The picture as a PNG, to be kept under the hash of its file: equal files give equal bytes, at most 20 MB; when it
    is read again, the same pixels. `name` is what errors call it. Raises `BadPicture`.
    """
    png = io.BytesIO()
    decoded(data, name).save(png, "PNG", compress_level=1)  # three times as fast as usual, and 6 % larger
    return Normalized(sha256_bytes(data), png.getvalue())


def small(png: bytes, side: int) -> bytes:
    """A kept picture as a JPEG that is at most `side` pixels wide and high."""
    jpeg = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        picture.thumbnail((side, side))
        picture.convert("RGB").save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()


def given(path: Path) -> bytes:
    """A picture's file as it is, or that which a link leads to. Raises `BadPicture`."""
    try:
        with files.opened(path) as file:
            data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise _too_large(path.name, file.seek(0, io.SEEK_END))
            return data
    except FileNotFoundError as error:
        raise BadPicture(tr("{name}: no such file", name=path)) from error
    except OSError as error:
        raise _unreadable(path.name, error) from error


def decoded(data: bytes, name: str) -> Image.Image:
    """The picture upright, in RGB as sRGB means it, at most `LONGEST` pixels wide and high, without its metadata (a
    phone writes where it was taken). Of one that moves, the first frame. Raises `BadPicture`.
    """
    if len(data) > MAX_BYTES:
        raise _too_large(name, len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, for which we have limits of our own, and of odd metadata
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check(picture, name)
                upright = _srgb(_turned(picture))
        upright.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        return Image.frombytes("RGB", upright.size, upright.tobytes())  # the pixels alone
    except UnidentifiedImageError as error:
        raise BadPicture(
            tr("{name}: is not a picture (taken are {formats})", name=name, formats=", ".join(FORMATS))
        ) from error
    except Image.DecompressionBombError as error:
        raise BadPicture(
            tr("{name}: far too many pixels; at most {limit} megapixels", name=name, limit=MAX_PIXELS // 10**6)
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's for broken data of each format
        raise _unreadable(name, error) from error


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The largest middle part of that shape, at exactly that size.

    The pipelines crop by themselves, but by the first picture's size only when there are several.
    """
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def flat(picture: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if picture.mode.startswith("I"):  # 16 bits of grey: Pillow would cut off what is above 255
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(ground, layered).convert("RGB")
    return picture.convert("RGB")


def _check(picture: Image.Image, name: str) -> None:
    """Raise `BadPicture` for too many pixels, which is known from the header, before anything is unpacked."""
    pixels, limit = picture.width * picture.height, MAX_PIXELS // 10**6
    if pixels > MAX_PIXELS:
        text = tr("{name}: {pixels:.0f} megapixels; at most {limit}", name=name, pixels=pixels / 1e6, limit=limit)
        raise BadPicture(text)


def _turned(picture: Image.Image) -> Image.Image:
    picture.load()  # a TIFF is turned by that, and then says that it is upright
    turn = TURNS.get(picture.getexif().get(ORIENTATION, 1))
    return picture if turn is None else picture.transpose(turn)


def _srgb(picture: Image.Image) -> Image.Image:
    """RGB by the colour profile in the picture. Phones write wider colours than those of screens, and printers other
    ones: taken as they are, they would be pale or wrong. A profile that cannot be used is as if there were none.
    """
    profile = picture.info.get("icc_profile")
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return flat(picture)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        coloured = picture if space == {"CMYK": "CMYK", "L": "GRAY"}.get(picture.mode) else flat(picture)
        if coloured.mode == "RGB" and space != "RGB":
            return coloured
        converted = ImageCms.profileToProfile(coloured, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return flat(picture)
    assert converted is not None
    return converted


def _too_large(name: str, size: int) -> BadPicture:
    shown, limit = f"{size / 1e6:.0f}", MAX_BYTES >> 20
    return BadPicture(tr("{name}: {size} MB; at most {limit} MB", name=name, size=shown, limit=limit))


def _unreadable(name: str, error: Exception) -> BadPicture:
    reason = getattr(error, "strerror", None) or error
    return BadPicture(tr("{name}: cannot be read: {reason}", name=name, reason=reason))
