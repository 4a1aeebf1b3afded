"""Draws app/label.png again: the words of the label that says that a video was made by AI.

    apt-get install fonts-noto-cjk
    python ci/label.py [FONT]

A font is needed for that only: the app carries the words as a picture, because few servers have a Chinese font. They
are set in Noto Sans CJK SC Bold, whose licence, the SIL Open Font License 1.1, leaves what is set in it free.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc")
FACE = 2  # Simplified Chinese, in that collection
CHINESE, ENGLISH = "AI生成", "AI-generated"
# Of the letters "AI", in pixels: more than the label of any video has, so that it is only ever made smaller.
LETTERS = 128
GAP = 40
TARGET = Path(__file__).resolve().parent.parent / "app" / "label.png"


def line(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """White on black, cut to what is white."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), text, fill=255, font=font)
    return drawn.crop(drawn.getbbox())


def sized(path: Path, text: str, *, width: int = 0, letters: int = 0) -> Image.Image:
    """The text as large as its letters should be high, or as wide as that allows."""
    size = 8
    while True:
        font = ImageFont.truetype(str(path), size + 1, index=FACE)
        _, top, _, bottom = font.getbbox("AI")
        drawn = line(text, font)
        if (letters and bottom - top > letters) or (width and drawn.width > width):
            return line(text, ImageFont.truetype(str(path), size, index=FACE))
        size += 1


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FONT
    chinese = sized(path, CHINESE, letters=LETTERS)
    english = sized(path, ENGLISH, width=chinese.width)
    mask = Image.new("L", (chinese.width, chinese.height + GAP + english.height))
    mask.paste(chinese, (0, 0))
    mask.paste(english, ((mask.width - english.width) // 2, chinese.height + GAP))
    mask.save(TARGET, optimize=True)
    sys.stderr.write(f"{TARGET.name}: {mask.width}x{mask.height}, {CHINESE} {chinese.height} high, {ENGLISH} below\n")


if __name__ == "__main__":
    main()
