"""How much of a prompt a model reads, counted as its text encoder will, without torch and transformers.

CLIP's tokenizer (https://github.com/openai/CLIP, `simple_tokenizer.py`): lower case, words and single digits, each
written as bytes and put together by the merges that the model was trained with.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.texts import tr
from jingxiang.errors import JingxiangError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

FOLDER = "tokenizer"  # in a model's folder
CONFIG = "tokenizer_config.json"
START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}  # unless the files say otherwise
AROUND = 2  # one at the start and one at the end, which take places, too
PLACES = 77  # of all CLIP models, where the files do not say it
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
FOREIGN_PART = 0.1  # of the letters


@dataclass(frozen=True)
class Count:
    """Tokens of a prompt, how many can be read at most, and the end of the prompt that is not."""

    used: int
    most: int
    unread: str


class Tokens:
    """The tokenizer of one model."""

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self._tokenizer = tokenizer
        self._most = most

    @classmethod
    def of(cls, folder: Path) -> Tokens | None:
        """That of a model's folder, which is kept; None if there is none. Raises `JingxiangError` if it is damaged."""
        place = folder / FOLDER
        return _of(place) if (place / CONFIG).is_file() else None

    def count(self, prompt: str) -> Count:
        places = self._tokenizer.encode(prompt, add_special_tokens=False).offsets
        unread = prompt[places[self._most][0] :] if len(places) > self._most else ""
        return Count(len(places), self._most, unread)


def is_foreign(prompt: str) -> bool:
    """Whether much of it is in letters that CLIP has hardly seen: it was trained on English."""
    letters = [letter for letter in prompt if letter.isalpha()]
    foreign = sum(not unicodedata.name(letter, "").startswith("LATIN ") for letter in letters)
    return foreign > len(letters) * FOREIGN_PART


@functools.lru_cache(maxsize=8)
def _of(place: Path) -> Tokens:
    try:
        config = _read(place / CONFIG)
        most = min(config.get("model_max_length", PLACES), PLACES) - AROUND
        return Tokens(_tokenizer(place, config), most)
    except Exception as error:  # tokenizers raises nothing more special
        name = f"{place.parent.name}/{FOLDER}"
        raise JingxiangError(tr("{name}: cannot be read: {reason}", name=name, reason=error)) from error


def _tokenizer(place: Path, config: dict[str, Any]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary, merges = _words(place)
    special = _special(place, config)
    unknown = special["unk_token"].content
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_tokens(list(special.values()))
    return tokenizer


def _words(place: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens with their numbers, and which two become one, the first ones first."""
    whole = place / "tokenizer.json"
    if whole.exists():
        model = _read(whole)["model"]
        merges = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
        return model["vocab"], [(first, second) for first, second in merges]
    lines = (place / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    return _read(place / "vocab.json"), [(first, second) for first, second in pairs]


def _special(place: Path, config: dict[str, Any]) -> dict[str, AddedToken]:
    """The tokens that stand for themselves wherever they are in a text, as transformers finds them: where the settings
    describe them by their numbers, the file of special tokens does not count any more.
    """
    from tokenizers import AddedToken

    named: dict[str, Any] = {**SPECIAL, **{name: config[name] for name in SPECIAL if config.get(name)}}
    described = {each["content"]: each for each in config.get("added_tokens_decoder", {}).values()}
    file = place / "special_tokens_map.json"
    if "added_tokens_decoder" not in config and file.exists():
        named |= {name: value for name, value in _read(file).items() if name in SPECIAL and value}
    found = {}
    for name, value in named.items():
        content = value if isinstance(value, str) else value["content"]
        about = described.get(content, {} if isinstance(value, str) else value)
        flags = {flag: about[flag] for flag in ("single_word", "lstrip", "rstrip", "normalized") if flag in about}
        found[name] = AddedToken(content, special=True, **flags)
    return found


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
