"""jingxiang.errors"""

from __future__ import annotations

import pytest

from jingxiang.errors import JingxiangError, TableError, UnknownName, UsageError


def test_a_failure_ends_with_1_and_keeps_its_hints() -> None:
    error = JingxiangError("it failed", hints=["do this", "or that"])
    assert (str(error), error.message, error.hints, error.exit_code) == (
        "it failed", "it failed", ("do this", "or that"), 1,
    )  # fmt: skip


def test_without_hints_there_are_none() -> None:
    assert JingxiangError("it failed").hints == ()


@pytest.mark.parametrize("error", [UsageError("x"), UnknownName("mirror", "x", []), TableError("f", "k", "p")])
def test_wrong_use_ends_with_2(error: JingxiangError) -> None:
    assert error.exit_code == 2


def test_an_unknown_name_comes_with_those_that_are_there_and_the_nearest() -> None:
    error = UnknownName("mirror", "tuan", ["tuna", "aliyun"])
    assert str(error) == "no mirror named 'tuan'; there is aliyun, tuna (did you mean 'tuna'?)"


def test_a_name_that_is_like_none_gets_no_guess() -> None:
    assert str(UnknownName("mirror", "zzz", ["tuna", "aliyun"])) == "no mirror named 'zzz'; there is aliyun, tuna"


def test_an_unknown_name_says_where_it_stands() -> None:
    error = UnknownName("key", "ulr", ["url"], where="mirrors.toml: tuna.pypi.ulr")
    assert str(error) == "mirrors.toml: tuna.pypi.ulr: no key named 'ulr'; there is url (did you mean 'url'?)"


def test_an_unknown_name_speaks_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINGXIANG_LANG", "zh")
    assert str(UnknownName("mirror", "tuan", ["tuna"])) == "没有名为“tuan”的镜像；可选：tuna（是不是“tuna”？）"


def test_a_wrong_setting_is_said_with_its_file_and_key() -> None:
    assert str(TableError("mirrors.toml", "tuna.pypi.url", "is missing")) == "mirrors.toml: tuna.pypi.url: is missing"


def test_a_file_that_is_wrong_as_a_whole_has_no_key() -> None:
    assert str(TableError("mirrors.toml", "", "cannot be read")) == "mirrors.toml: cannot be read"
