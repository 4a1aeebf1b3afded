"""Reading a user's picture safely, and cutting it to the video's shape."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from app.texts import tr
from jingxiang.errors import UsageError

MAX_BYTES = 20 << 20
# More than any camera gives; an image of this size takes 150 MB once unpacked. Larger ones are mostly bombs.
MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class BadPicture(UsageError):
    """A file that is not a picture we take."""


def read(path: Path) -> Image.Image:
    """The picture upright and in RGB, without its metadata (a phone writes where it was taken)."""
    name = path.name
    try:
        if path.stat().st_size > MAX_BYTES:
            size = f"{path.stat().st_size / 1e6:.0f}"
            raise BadPicture(tr("{name}: {size} MB; at most {limit} MB", name=name, size=size, limit=MAX_BYTES >> 20))
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            picture = Image.open(file, formats=FORMATS)
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:  # known from the header, before anything is unpacked
                limit = MAX_PIXELS // 10**6
                text = tr(
                    "{name}: {pixels:.0f} megapixels; at most {limit}", name=name, pixels=pixels / 1e6, limit=limit
                )
                raise BadPicture(text)
            upright = flat(ImageOps.exif_transpose(picture))
        return Image.frombytes("RGB", upright.size, upright.tobytes())  # the pixels alone
    except FileNotFoundError as error:
        raise BadPicture(tr("{name}: no such file", name=path)) from error
    except UnidentifiedImageError as error:
        raise BadPicture(
            tr("{name}: is not a picture (taken are {formats})", name=name, formats=", ".join(FORMATS))
        ) from error
    except Image.DecompressionBombError as error:
        raise BadPicture(
            tr("{name}: far too many pixels; at most {limit} megapixels", name=name, limit=MAX_PIXELS // 10**6)
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's for broken data of each format
        reason = getattr(error, "strerror", None) or error
        raise BadPicture(tr("{name}: cannot be read: {reason}", name=name, reason=reason)) from error


@dataclass(frozen=True)
class Normalized:
    sha256: str
    png: bytes


def normalized(data: bytes, name: str) -> Normalized:
    png = io.BytesIO()
    decoded(data, name).save(png, "PNG", compress_level=1)
    return Normalized(hashlib.sha256(data).hexdigest(), png.getvalue())


def decoded(data: bytes, name: str) -> Image.Image:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(name).name
        file.write_bytes(data)
        return read(file)


def flat(picture: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(ground, layered).convert("RGB")
    return picture.convert("RGB")


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The largest middle part of that shape, at exactly that size.

    The pipelines crop by themselves, but by the first picture's size only when there are several.
    """
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
