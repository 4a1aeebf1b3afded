"""app.picture"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from app import picture


def test_a_rotated_photo_comes_upright_and_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    exif[0x010F] = "Maker"
    Image.new("RGB", (40, 20), "red").save(path, exif=exif)
    read = picture.read(path)
    assert (read.size, read.mode) == ((20, 40), "RGB")
    assert not dict(read.getexif())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (8, 8)).save(path)
    assert picture.read(path).mode == "RGB"


def test_transparent_becomes_white(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(path)
    assert picture.read(path).getpixel((0, 0)) == (255, 255, 255)


def test_a_text_file_is_not_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    with pytest.raises(picture.BadPicture, match=r"^notes\.jpg: is not a picture \(taken are JPEG, "):
        picture.read(path)


def test_a_vector_or_script_format_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.eps"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(picture.BadPicture, match="is not a picture"):
        picture.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(picture.BadPicture, match=r"/none\.png: no such file$"):
        picture.read(tmp_path / "none.png")


def test_a_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(picture.BadPicture, match="cannot be read: Is a directory"):
        picture.read(tmp_path)


def test_a_picture_cut_short_is_said(tmp_path: Path, photo: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    with pytest.raises(picture.BadPicture, match=r"^cut\.jpg: cannot be read: "):
        picture.read(path)


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing: what matters must be known before it is unpacked."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20000, 10000), "huge.png: far too many pixels; at most 50 megapixels"),
        ((10000, 9000), "huge.png: 90 megapixels; at most 50"),
        ((10000, 6000), "huge.png: 60 megapixels; at most 50"),
    ],
)
def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path, size: tuple[int, int], message: str) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(header_only_png(*size))
    with pytest.raises(picture.BadPicture) as caught:
        picture.read(path)
    assert caught.value.message == message
    assert caught.value.exit_code == 2


def test_too_many_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(picture.MAX_BYTES + 1)
    with pytest.raises(picture.BadPicture, match=r"^large\.png: 21 MB; at most 20 MB$"):
        picture.read(path)


def test_fit_takes_the_middle(tmp_path: Path) -> None:
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    fitted = picture.fit(wide, 50, 50)
    assert fitted.size == (50, 50)
    assert fitted.getpixel((25, 25)) == (255, 255, 255)
    assert min(fitted.getpixel((2, 25))) > 250
