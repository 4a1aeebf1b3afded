"""app.picture"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from app import picture
from jingxiang.digest import sha256_bytes


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
    with pytest.raises(picture.BadPicture, match=r"cannot be read: is not a file$"):
        picture.read(tmp_path)


def test_a_picture_cut_short_is_said(tmp_path: Path, photo: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    with pytest.raises(picture.BadPicture, match=r"^cut\.jpg: cannot be read: "):
        picture.read(path)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing: what matters must be known before it is unpacked."""
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


def test_a_pipe_or_a_device_is_not_a_picture_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(picture.BadPicture, match=r"cannot be read: is not a file$"):
            picture.read(path)


def test_a_link_leads_to_its_picture_but_not_round_in_circles(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(photo)
    assert picture.read(tmp_path / "link.jpg").tobytes() == picture.read(photo).tobytes()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(picture.BadPicture, match=r"^loop\.jpg: cannot be read: Too many levels of symbolic links$"):
        picture.read(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to("none.jpg")
    with pytest.raises(picture.BadPicture, match="no such file"):
        picture.read(tmp_path / "dangling.jpg")


@pytest.mark.parametrize("name", ["猫 的照片.png", "naïve.png", "🐈.png", "-rf.png"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.new("RGB", (2, 2), "red").save(path)
    assert picture.read(path).size == (2, 2)
    path.write_bytes(b"x")
    with pytest.raises(picture.BadPicture) as caught:
        picture.read(path)
    assert caught.value.message.startswith(f"{name}: is not a picture")


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# Where the four fields of an upright picture (red green / blue white) are in the file, by orientation (Exif 3.0, 4.6.5)
ORIENTATIONS = {
    1: (RED, GREEN, BLUE, WHITE), 2: (GREEN, RED, WHITE, BLUE), 3: (WHITE, BLUE, GREEN, RED),
    4: (BLUE, WHITE, RED, GREEN), 5: (RED, BLUE, GREEN, WHITE), 6: (GREEN, WHITE, RED, BLUE),
    7: (WHITE, GREEN, BLUE, RED), 8: (BLUE, RED, WHITE, GREEN),
}  # fmt: skip


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def fields(colours: tuple[Any, ...], columns: int = 32, rows: int = 16) -> Image.Image:
    """A picture of four fields."""
    image = Image.new("RGB", (columns, rows))
    for number, colour in enumerate(colours):
        left, top = number % 2 * columns // 2, number // 2 * rows // 2
        image.paste(colour, (left, top, left + columns // 2, top + rows // 2))
    return image


def seen(image: Image.Image) -> tuple[Any, ...]:
    """The colours of the four fields, as far as a JPEG keeps them."""
    columns, rows = image.size
    places = [(columns // 4 + columns // 2 * x, rows // 4 + rows // 2 * y) for y in (0, 1) for x in (0, 1)]
    return tuple(tuple(255 if value > 127 else 0 for value in image.getpixel(place)) for place in places)


def chunks(png: bytes) -> list[bytes]:
    """The types of a PNG's chunks, each once."""
    found, place = [], 8
    while place < len(png):
        found.append(png[place + 4 : place + 8])
        place += 12 + int.from_bytes(png[place : place + 4], "big")
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("orientation", list(ORIENTATIONS))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_comes_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (16, 32) if orientation > 4 else (32, 16)
    data = encoded(fields(ORIENTATIONS[orientation], *size), kind, exif=exif)
    read = picture.decoded(data, "x")
    assert (read.size, seen(read)) == ((32, 16), (RED, GREEN, BLUE, WHITE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_is_kept_is_the_pixels_alone(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825).update({1: "N", 2: (31.0, 14.0, 3.0), 3: "E", 4: (121.0, 28.0, 9.0), 29: "2026:01:02"})
    options: dict[str, Any] = {"xmp": b"<x:xmpmeta>secret</x:xmpmeta>"} if kind != "PNG" else {}
    data = encoded(fields((RED, GREEN, BLUE, WHITE)), kind, exif=exif, **options)
    assert b"2026:01:02" in data
    kept = picture.normalized(data, "x")
    assert chunks(kept.png) == [b"IHDR", b"IDAT", b"IEND"]
    assert not any(each in kept.png for each in (b"2026:01:02", b"Maker", b"secret", b"Exif", b"GPS"))
    assert kept.sha256 == sha256_bytes(data)


def test_it_is_kept_in_equal_bytes_that_give_the_same_pixels(photo: Path) -> None:
    data = photo.read_bytes()
    kept = picture.normalized(data, "x")
    assert picture.normalized(data, "another name") == kept
    assert picture.decoded(kept.png, "x").tobytes() == picture.read(photo).tobytes()
    assert picture.normalized(kept.png, "x").png == kept.png


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ((6000, 3000), (2560, 1280)),
        ((300, 5120), (150, 2560)),
        ((1, 1), (1, 1)),
        ((2560, 10), (2560, 10)),
        ((20_000, 1), (2560, 1)),
    ],
)
def test_no_side_is_longer_than_any_model_can_use(size: tuple[int, int], kept: tuple[int, int]) -> None:
    assert picture.decoded(encoded(Image.new("RGB", size, "red")), "x").size == kept


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_a_picture_that_moves_the_first_frame_is_taken(kind: str) -> None:
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue"))
    options = {} if kind == "TIFF" else {"duration": 9}
    data = encoded(first, kind, save_all=True, append_images=others, **options)
    assert seen(picture.decoded(data, "x")) == (RED,) * 4


def test_a_photo_with_a_second_one_in_it_is_taken() -> None:
    """Phones add a depth map or a preview (CIPA DC-007, MPF)."""
    data = encoded(Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert seen(picture.decoded(data, "x")) == (RED,) * 4


def test_16_bits_of_grey_are_not_all_white() -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    for kind in ("PNG", "TIFF"):
        read = np.asarray(picture.decoded(encoded(Image.fromarray(ramp), kind), "x"))
        assert (read == (ramp // 257)[:, :, None]).all()


def test_16_bits_of_each_colour_are_read() -> None:
    row = b"\0" + struct.pack(">3H", 0xFFFF, 0x8080, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert picture.decoded(data, "x").getpixel((0, 0)) == (255, 128, 0)


def test_transparent_colours_of_a_palette_become_white() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 4, 4))
    for kind in ("PNG", "GIF"):
        assert seen(picture.decoded(encoded(image, kind, transparency=1), "x")) == (RED, WHITE, WHITE, WHITE)


def test_a_photo_in_a_printer_s_colours_is_read() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert seen(picture.decoded(encoded(image, "JPEG"), "x")) == (RED,) * 4


def profile(name: str) -> bytes:
    made: bytes = ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()
    return made


def wide() -> bytes:
    """The profile of a phone's screen: that of sRGB with the primaries of Display P3."""
    primaries = {
        b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }  # fmt: skip
    made = bytearray(profile("sRGB"))
    for place in range(132, 132 + 12 * int.from_bytes(made[128:132], "big"), 12):  # its table of tags (ICC.1:2022, 7.3)
        tag, start = bytes(made[place : place + 4]), int.from_bytes(made[place + 4 : place + 8], "big")
        if tag in primaries:
            made[start + 8 : start + 20] = struct.pack(">3i", *(round(each * 65536) for each in primaries[tag]))
    return bytes(made)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_phone_s_wider_colours_become_those_of_a_screen_that_look_alike(kind: str) -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 100))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    red, green, _ = picture.decoded(encoded(image, kind, icc_profile=wide(), **options), "x").getpixel((4, 4))
    assert red > 205
    assert green < 98
    plain = picture.decoded(encoded(image, kind, icc_profile=profile("sRGB"), **options), "x").getpixel((4, 4))
    assert max(abs(one - other) for one, other in zip(plain, (200, 100, 100), strict=True)) <= 2


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1"])
def test_a_profile_does_no_harm_in_any_mode(mode: str) -> None:
    data = encoded(Image.new(mode, (8, 8), 1 if mode == "P" else "white"), icc_profile=wide())
    assert picture.decoded(data, "x").mode == "RGB"


@pytest.mark.parametrize("bad", [b"x", bytes(200), b"\xff" * 5000, wide()[:300], bytes(picture.MAX_PROFILE_BYTES + 1)])
def test_a_profile_that_cannot_be_used_is_as_if_there_were_none(bad: bytes) -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    assert picture.decoded(encoded(image, "TIFF", icc_profile=bad), "x").getpixel((0, 0)) == (200, 100, 50)
    lab = profile("LAB")  # of another kind of colours than those of the picture
    assert picture.decoded(encoded(image, icc_profile=lab), "x").getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_picture_that_ends_anywhere_is_one_line(kind: str) -> None:
    data = encoded(Image.radial_gradient("L").convert("RGB"), kind)
    for length in (0, 1, 10, 50, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(picture.BadPicture) as caught:
            picture.decoded(data[:length], "cut.x")
        assert caught.value.message.startswith("cut.x: ")
        assert "\n" not in caught.value.message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damage_anywhere_is_one_line_or_a_picture(kind: str) -> None:
    data = encoded(fields((RED, GREEN, BLUE, WHITE)), kind)
    random = np.random.default_rng(0)
    for _ in range(200):
        bad = bytearray(data)
        for place in random.integers(0, len(data), 3):
            bad[place] = random.integers(0, 256)
        with contextlib.suppress(picture.BadPicture):  # anything else that is raised fails the test
            assert picture.decoded(bytes(bad), "x").mode == "RGB"
