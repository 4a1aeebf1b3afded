"""app.tokens, beside what transformers says"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from app import smoke
from app.tokens import Count, Tokens, is_foreign
from jingxiang.errors import JingxiangError
from tests.peers import tiny_models

ROOT = Path(__file__).resolve().parent.parent
MERGES = (
    "t h",
    "th e</w>",
    "c a",
    "ca t</w>",
    "i n",
    "in g</w>",
    "a n",
    "an d</w>",
    "! !",
    "' s</w>",
    "1 0",
    "e r</w>",
)
START, END = "<|startoftext|>", "<|endoftext|>"
FULL = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
# How the models that the app knows, and others of their kinds, write it down.
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "i2vgen-xl": {
        "tokenizer_config.json": {
            "bos_token": {"__type": "AddedToken", "content": START, **FULL},
            "eos_token": {"__type": "AddedToken", "content": END, **FULL},
            "unk_token": {"__type": "AddedToken", "content": END, **FULL},
            "pad_token": END, "model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer",
        },
        "special_tokens_map.json": {
            "bos_token": {"content": START, **FULL}, "eos_token": {"content": END, **FULL},
            "unk_token": {"content": END, **FULL}, "pad_token": "!",
        },
    },
    "numbered": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "0": {"content": "!", **FULL, "normalized": False, "special": True},
                "512": {"content": START, **FULL, "special": True},
                "513": {"content": END, **FULL, "normalized": False, "special": True},
            },
            "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!", "model_max_length": 30,
            "tokenizer_class": "CLIPTokenizer",
        },
        "special_tokens_map.json": {"pad_token": "cat"},
    },
    "bare": {"tokenizer_config.json": {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}},
}  # fmt: skip
PROMPTS = (
    "", " ", "a cat", "  The   Cat\tand\nthe CAT  ", "the cat's singing; they'll, we've, I'm, don't, IT'S!!",
    "!", "wow!!! 100% 10,000 km/h -- (really?) ... #1", "一只猫在唱歌", "a cat, 一只猫 🐈‍⬛ and the dog",
    "🎬🎥👩‍👩‍👧", "ÀÉÎõü ǅ ß ẞ İı ﬁ",
    "cafe\u0301 café", "<|startoftext|>cat<|endoftext|> the", "x" * 200, "the cat and " * 50, "1234567890" * 10,
    "кот и собака",
    "\u00a0the\u3000cat\u200b", "¿qué? «naïve» — “quoted” ‘single’", "a\u0000b",
    "\U0001f3f4\U000e0067 the", "٣٤٥ ½ ² Ⅷ",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models' folders: those of the tiny ones, and what is published for the real ones, with few words."""
    folder = tmp_path_factory.mktemp("tokens")
    tiny_models.animatediff(folder / "animatediff")
    found = {"smoke": models / "smoke", "animatediff": folder / "animatediff"}
    words = list(smoke.tokenizer().get_vocab())
    words = [*sorted(words, key=smoke.tokenizer().get_vocab().__getitem__), *("".join(pair.split()) for pair in MERGES)]
    for name, files in KINDS.items():
        place = folder / name / "tokenizer"
        place.mkdir(parents=True)
        (place / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
        (place / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
        for file, content in files.items():
            (place / file).write_text(json.dumps(content))
        found[name] = folder / name
    return found


def expected(tokenizer: Any, prompt: str) -> Count:
    """As `app.adapters.base` finds what of a prompt is not read."""
    most = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    places = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return Count(len(places), most, prompt[places[most][0] :] if len(places) > most else "")


@pytest.mark.parametrize("name", ["smoke", "animatediff", *KINDS])
def test_it_counts_as_the_text_encoder_will(folders: dict[str, Path], name: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folders[name] / "tokenizer")
    tokens = Tokens.of(folders[name])
    assert tokens is not None
    assert {prompt: tokens.count(prompt) for prompt in PROMPTS} == {
        prompt: expected(tokenizer, prompt) for prompt in PROMPTS
    }

    @given(st.text(st.one_of(st.sampled_from("the cat's!! 10<|>"), st.characters(codec="utf-8"))))
    def same(prompt: str) -> None:
        assert tokens.count(prompt) == expected(tokenizer, prompt)

    same()


def test_what_is_too_long_is_named(folders: dict[str, Path]) -> None:
    tokens = Tokens.of(folders["i2vgen-xl"])
    assert tokens is not None
    assert tokens.count("cat " * 75) == Count(75, 75, "")
    assert tokens.count("cat " * 75 + "the End") == Count(79, 75, "the End")


def test_it_is_loaded_once_and_looked_for_again_while_it_is_not_there(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert Tokens.of(folder) is None
    folder.symlink_to(folders["smoke"])
    assert Tokens.of(folder) is not None
    assert Tokens.of(folder) is Tokens.of(folder)


@pytest.mark.parametrize("text", ["{", '{"model": {}}', '{"model": {"vocab": {"a": 1}, "merges": ["x y"]}}'])
def test_what_is_damaged_is_said_without_saying_where_it_lies(
    folders: dict[str, Path], tmp_path: Path, text: str
) -> None:
    place = tmp_path / "model" / "tokenizer"
    place.mkdir(parents=True)
    (place / "tokenizer_config.json").write_text("{}")
    (place / "tokenizer.json").write_text(text)
    with pytest.raises(JingxiangError, match=r"^model/tokenizer: cannot be read: ") as caught:
        Tokens.of(tmp_path / "model")
    assert str(tmp_path) not in caught.value.message


def test_it_needs_neither_torch_nor_transformers(folders: dict[str, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from app.tokens import Tokens\n"
        "print(Tokens.of(Path(sys.argv[1])).count('a cat').used, *{'torch', 'transformers'} & set(sys.modules))"
    )
    argv = [sys.executable, "-c", code, str(folders["bare"])]
    assert re.fullmatch(r"2\n", subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    ("prompt", "is_it"),
    [
        ("一只猫在唱歌", True), ("a cat, 一只猫", True), ("кот", True), ("ネコ", True), ("a cat", False), ("", False),
        ("café naïve", False), ("100 % 🐈!", False),
        ("a cat that looks for 猫 on the internet, all day and all night", False),
    ],
)  # fmt: skip
def test_what_is_not_english_is_noticed(prompt: str, is_it: bool) -> None:
    assert is_foreign(prompt) is is_it
