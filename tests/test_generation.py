"""app.generation"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from app import generation
from app.texts import speaking
from jingxiang import models as catalog
from jingxiang.errors import UnknownName, UsageError

ROOT = Path(__file__).resolve().parent.parent
SPEC = catalog.load(ROOT / "app" / "models.toml").model("smoke")


def order(**changes: Any) -> generation.Order:
    values: dict[str, Any] = {"picture": "ab" * 32, "prompt": "a cat", "preset": "fast", "seed": 7}
    return generation.order(SPEC, **{**values, **changes})


def test_an_order_goes_through_json_unchanged() -> None:
    assert generation.Order.from_json(json.loads(json.dumps(asdict(order())))) == order()


def test_settings_name_all_that_made_the_video_and_no_path() -> None:
    assert order().settings() == {
        "model": "smoke", "prompt": "a cat", "preset": "fast", "seed": 7,
        "width": 64, "height": 64, "frames": 8, "steps": 4, "fps": 8, "guidance": 9.0,
    }  # fmt: skip


def test_what_should_not_be_in_it_is_named_where_there_is_any() -> None:
    assert order(negative=" blurry \n").settings() == {**order().settings(), "negative_prompt": "blurry"}
    assert "negative_prompt" not in order(negative=" ").settings()


def test_an_order_of_an_earlier_version_is_read() -> None:
    stored = asdict(order())
    del stored["negative"]
    assert generation.Order.from_json(stored) == order()


def test_orders_of_one_lot_can_be_carried_out_at_once() -> None:
    assert order().lot == order(prompt="a dog", seed=8, picture="cd" * 32, negative="blurry").lot
    assert order().lot == order(preset="standard", changes=asdict(SPEC.preset("fast"))).lot
    assert order().lot != order(preset="standard").lot
    assert order().lot != order(changes={"guidance": 8.5}).lot


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames: should be from 1 to 32"),
        ({"frames": 10000}, "frames: should be from 1 to 32"),
        ({"width": 100}, "width: should be a multiple of 8"),
        ({"height": 1024}, "height: should be from 1 to 512"),
        ({"steps": 0}, "steps: should be from 1 to 100"),
        ({"fps": 60}, "fps: should be from 1 to 30"),
        ({"guidance": -1.0}, "guidance: should be from 1 to 20"),
        ({"guidance": float("nan")}, "guidance: should be from 1 to 20"),
    ],
)
def test_settings_beyond_the_limits_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        order(changes=changes)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(UsageError, match="the prompt is empty"):
        order(prompt=prompt)


def test_a_model_without_a_prompt_asks_for_none_and_keeps_none() -> None:
    svd = catalog.load(ROOT / "app" / "models.toml").model("svd-xt")
    for prompt in ("", "a cat"):
        made = generation.order(svd, picture="ab" * 32, prompt=prompt, preset="fast", seed=7, negative=prompt)
        assert made.prompt == made.negative == ""
        assert not {"prompt", "negative_prompt"} & made.settings().keys()


def test_what_is_not_wise_is_said() -> None:
    xl = catalog.load(ROOT / "app" / "models.toml").model("i2vgen-xl")
    assert generation.advice(xl, xl.preset("standard")) == []
    wild = replace(xl.preset("standard"), steps=80, fps=6, guidance=12.5)
    assert generation.advice(xl, wild) == [
        "steps 80: better from 10 to 60", "fps 6: better from 8 to 30", "guidance 12.5: better from 7 to 11",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="between 0 and 4294967295"):
        order(seed=seed)


def test_an_unknown_preset_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match="there is fast, standard \\(did you mean 'standard'\\?\\)"):
        order(preset="standrad")


def test_without_a_seed_each_order_has_its_own() -> None:
    assert len({order(seed=None).seed for _ in range(4)}) == 4


def test_errors_are_in_the_language_being_spoken() -> None:
    with speaking("zh"):
        assert order().language == "zh"
        with pytest.raises(UsageError, match="提示词为空"):
            order(prompt="")
