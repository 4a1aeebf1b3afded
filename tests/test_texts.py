"""app.texts and app.cookies"""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from app import cookies
from app.texts import asked


@pytest.mark.parametrize(
    ("headers", "language"),
    [
        ({}, "en"),
        ({"accept-language": "zh"}, "zh"),
        ({"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}, "zh"),
        ({"accept-language": "ZH-hant"}, "zh"),
        ({"accept-language": "en-US,en;q=0.9,zh;q=0.8"}, "en"),
        ({"accept-language": "fr, zh"}, "en"),
        ({"cookie": "language=zh"}, "zh"),
        ({"cookie": "language=en", "accept-language": "zh-CN"}, "en"),
        ({"cookie": "a=1; language=zh; b=2", "accept-language": "en"}, "zh"),
        # of the app's folder, then of the host's root
        ({"cookie": "language=zh; language=en"}, "zh"),
        # no language of ours, or no cookie at all: as if there were none
        ({"cookie": "language=fr", "accept-language": "zh"}, "zh"),
        ({"cookie": "language=; language=zh"}, "zh"),
        ({"cookie": "language", "accept-language": "zh"}, "zh"),
        ({"cookie": ";;=;language=\xff\x00;", "accept-language": "zh"}, "zh"),
        ({"cookie": "my-language=zh; languages=zh"}, "en"),
        ({"cookie": "other=language=zh"}, "en"),
    ],
)
def test_the_chosen_language_comes_before_the_browser_s(headers: dict[str, str], language: str) -> None:
    assert asked(headers) == language
    assert asked(Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()])) == language


def test_cookies_of_a_name_are_found_in_their_order() -> None:
    assert cookies.values("a=1;b=2 ;  a = 3=4; a; c", "a") == ["1", "3=4"]
    assert cookies.values("", "a") == []
