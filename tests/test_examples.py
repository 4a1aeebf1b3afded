"""app.examples: the pictures that the page offers, and the program that draws them"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import examples, picture
from ci.examples import PICTURES, jpeg
from jingxiang.errors import JingxiangError, TableError

TEXT = """
[boat]
title = { en = "A boat", zh = "小船" }
prompt = "a boat"
"""
SHIPPED = examples.load()


def load(folder: Path, text: str) -> tuple[examples.Example, ...]:
    (folder / "examples.toml").write_text(text, encoding="utf-8")
    (folder / "examples").mkdir()
    (folder / "examples" / "boat.jpg").write_bytes(b"")
    return examples.load(folder / "examples.toml")


def test_what_the_file_says(tmp_path: Path) -> None:
    expected = examples.Example("boat", {"en": "A boat", "zh": "小船"}, "a boat", tmp_path / "examples" / "boat.jpg")
    assert load(tmp_path, TEXT) == (expected,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prompt", "promt", "app/examples.toml: boat.promt: no key named 'promt'; there is prompt, title "
         "(did you mean 'prompt'?)"),
        (', zh = "小船"', "", "app/examples.toml: boat.title.zh: is missing; it should be a string"),
        ('"a boat"', "1", "app/examples.toml: boat.prompt: should be a string, not a whole number"),
        ("[boat]", "[ship]", "app/examples.toml: ship: app/examples/ship.jpg is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(JingxiangError) as raised:
        load(tmp_path, TEXT.replace(old, new))
    assert raised.value.message == message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"^app/examples\.toml: cannot be read: "):
        examples.load(tmp_path / "examples.toml")


def test_those_that_are_shipped_are_small_and_of_the_shape_that_models_like() -> None:
    assert sum(each.picture.stat().st_size for each in SHIPPED) < 150_000
    for each in SHIPPED:
        assert picture.read(each.picture).size == (768, 432)
        assert each.titles["en"].isascii()
        assert not each.titles["zh"].isascii()
        assert each.prompt.isascii()
        assert len(each.prompt) <= 75  # tokens, where letters are tokens: the smoke model reads no more


@pytest.mark.parametrize("example", SHIPPED, ids=lambda each: each.name)
def test_the_program_draws_what_is_shipped(example: examples.Example, tmp_path: Path) -> None:
    """Within what another numpy, processor or JPEG library may make of it."""
    again = tmp_path / "again.jpg"
    again.write_bytes(jpeg(PICTURES[example.name]()))
    shipped, drawn = (np.asarray(Image.open(each), np.int16) for each in (example.picture, again))
    assert np.abs(shipped - drawn).mean() < 1
