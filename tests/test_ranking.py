"""jingxiang.ranking"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jingxiang import ranking
from jingxiang.ranking import Ranking

NOW = 1_800_000_000.0


def test_what_is_kept_is_read_back_with_its_age(tmp_path: Path) -> None:
    ranking.keep(tmp_path / "home", {"pypi": ("tuna", "aliyun")}, NOW)
    assert ranking.fresh(tmp_path / "home", NOW + 60) == {"pypi": Ranking(("tuna", "aliyun"), 60.0)}
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["mirrors.json"]


@pytest.mark.parametrize(("age_s", "kept"), [(0, True), (3599, True), (3600, False), (-1, False)])
def test_it_holds_for_an_hour_and_not_from_the_future(tmp_path: Path, age_s: float, kept: bool) -> None:
    ranking.keep(tmp_path, {"pypi": ("tuna",)}, NOW)
    assert bool(ranking.fresh(tmp_path, NOW + age_s)) is kept


def test_a_new_measurement_replaces_that_of_its_space_alone(tmp_path: Path) -> None:
    ranking.keep(tmp_path, {"pypi": ("tuna",), "conda": ("nju",)}, NOW)
    ranking.keep(tmp_path, {"pypi": ("aliyun",)}, NOW + 1800)
    assert ranking.fresh(tmp_path, NOW + 1800) == {
        "conda": Ranking(("nju",), 1800.0),
        "pypi": Ranking(("aliyun",), 0.0),
    }
    assert ranking.fresh(tmp_path, NOW + 3600) == {"pypi": Ranking(("aliyun",), 1800.0)}


def test_a_space_in_which_nothing_is_good_any_more_has_no_order(tmp_path: Path) -> None:
    ranking.keep(tmp_path, {"pypi": ("tuna",)}, NOW)
    ranking.keep(tmp_path, {"pypi": ()}, NOW + 1)
    assert ranking.fresh(tmp_path, NOW + 1) == {}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "1", '{"pypi": 1}', '{"pypi": {}}', '{"pypi": {"names": "tuna", "measured": 1800000000}}',
        '{"pypi": {"names": ["tuna"], "measured": "now"}}', "\x00",
    ],
)  # fmt: skip
def test_a_broken_file_is_measured_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "mirrors.json").write_text(text)
    assert ranking.fresh(tmp_path, NOW) == {}
    ranking.keep(tmp_path, {"pypi": ("tuna",)}, NOW)
    assert json.loads((tmp_path / "mirrors.json").read_text()) == {"pypi": {"names": ["tuna"], "measured": NOW}}


def test_nothing_kept_is_nothing_known(tmp_path: Path) -> None:
    assert ranking.fresh(tmp_path, NOW) == {}
