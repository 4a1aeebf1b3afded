"""jingxiang.ordering, with real mirrors on this machine"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from jingxiang import mirrors, ordering, ranking
from jingxiang.locks import LockedPackage
from jingxiang.mirrors import MirrorSet
from jingxiang.samples import Wanted
from tests.peers.mirror import Mirror, serving, wheel

TINY, BUILT = wheel("tiny", "1.0"), wheel("torch", "2.0+cpu")
PACKAGES = {each: LockedPackage(tiny.name, tiny.version, "", (tiny.sha256,))
            for each, tiny in (("pypi", TINY), ("torch", BUILT))}  # fmt: skip


@dataclass
class Site:
    """Two mirrors: `near`, which is good, and `bad`, which the file names first. `near` has builds of torch too."""

    near: Mirror
    bad: Mirror
    known: MirrorSet
    home: Path

    def order(
        self, mirror: str, *spaces: str, settings: Mapping[str, str] | None = None, index: str = "http://127.0.0.1:9/"
    ) -> dict[str, list[str]]:
        found = ordering.orders(
            self.known, mirror, spaces, home=self.home, wanted=Wanted(PACKAGES, index), settings=settings or {}
        )
        return {space: [source.mirror for source in sources] for space, sources in found.items()}

    def kept(self) -> dict[str, tuple[str, ...]]:
        return {space: each.names for space, each in ranking.fresh(self.home, time.time()).items()}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with ExitStack() as stack:
        near, bad = (stack.enter_context(serving()) for _ in range(2))
        near.add_index(TINY)
        near.add_index(BUILT, root="/whl/cpu")
        bad.answers[""] = bad.status(403)
        (tmp_path / "mirrors.toml").write_text(
            "[official]\n"
            f'[bad]\npypi = {{ layout = "pep503", url = "{bad.url}/simple" }}\n'
            f'[near]\npypi = {{ layout = "pep503", url = "{near.url}/simple" }}\n'
            f'torch = {{ layout = "pep503", url = "{near.url}/whl/{{build}}" }}\n'
        )
        yield Site(near, bad, mirrors.load(tmp_path), tmp_path / "home")


def test_a_named_mirror_comes_first_and_nobody_is_measured(site: Site) -> None:
    assert site.order("near", "pypi", "torch") == {"pypi": ["near", "bad", "official"], "torch": ["near", "official"]}
    assert site.order("official", "pypi") == {"pypi": ["official", "bad", "near"]}
    assert (site.near.asked, site.bad.asked, site.home.exists()) == ([], [], False)


def test_auto_measures_and_keeps_what_is_good(site: Site) -> None:
    assert site.order("auto", "pypi", "torch") == {"pypi": ["near", "bad", "official"], "torch": ["near", "official"]}
    assert site.bad.paths() == ["/simple/tiny/"]
    assert site.kept() == {"pypi": ("near",), "torch": ("near",)}


def test_what_was_measured_within_the_hour_is_not_measured_again(site: Site) -> None:
    ranking.keep(site.home, {"pypi": ("official", "near")}, time.time() - 3000)
    assert site.order("auto", "pypi") == {"pypi": ["official", "near", "bad"]}
    assert site.near.asked == []


def test_only_the_spaces_that_lack_an_order_are_measured(site: Site) -> None:
    ranking.keep(site.home, {"pypi": ("official",)}, time.time())
    site.order("auto", "pypi", "torch")
    assert site.near.paths() == ["/whl/cpu/torch/", f"/packages/{BUILT.file}"]
    assert site.bad.asked == []
    assert site.kept() == {"pypi": ("official",), "torch": ("near",)}


def test_an_order_older_than_an_hour_does_not_count(site: Site) -> None:
    ranking.keep(site.home, {"pypi": ("bad",)}, time.time() - 3700)
    assert site.order("auto", "pypi") == {"pypi": ["near", "bad", "official"]}


@pytest.mark.parametrize("place", ["find-links", "extra-index-url"])
def test_pips_own_places_come_first_for_builds_of_pytorch(site: Site, place: str) -> None:
    """Its default index has none of them, but who has set up another place has done so for a reason."""
    ranking.keep(site.home, {"pypi": ("near",), "torch": ("near",)}, time.time())
    expected = {"pypi": ["near", "bad", "official"], "torch": ["official", "near"]}
    assert site.order("auto", "pypi", "torch", settings={place: "/wheels"}) == expected
    assert site.order("bad", "torch", settings={place: "/wheels"}) == {"torch": ["official", "near"]}
    # who names a mirror that has such builds gets it
    assert site.order("near", "torch", settings={place: "/wheels"}) == {"torch": ["near", "official"]}


def test_official_is_measured_by_the_index_that_pip_is_set_to(site: Site) -> None:
    site.near.files["/company/tiny/"] = site.near.files["/simple/tiny/"]
    site.order("auto", "pypi", index=f"{site.near.url}/company")
    assert "/company/tiny/" in site.near.paths()
    assert set(site.kept()["pypi"]) == {"near", "official"}


def test_mirrors_are_asked_through_pips_proxy(site: Site, tmp_path: Path) -> None:
    """The good mirror as a proxy: it serves what it is asked for by a whole address."""
    (tmp_path / "mirrors.toml").write_text(
        '[far]\npypi = { layout = "pep503", url = "http://nowhere.invalid/simple" }\n'
    )
    far = "http://nowhere.invalid"
    site.near.files |= {f"{far}{path}": body for path, body in site.near.files.items()}
    measured = ordering.measure(
        mirrors.load(tmp_path), ["pypi"], home=site.home, wanted=Wanted(PACKAGES, ""), settings={"proxy": site.near.url}
    )
    assert [each.reason for each in measured.values()] == [""]
    assert site.near.paths() == [f"{far}/simple/tiny/", f"{far}/packages/{TINY.file}"]


def test_every_source_is_measured_and_the_bad_ones_say_why(site: Site) -> None:
    measured = ordering.measure(
        site.known, ["pypi"], home=site.home, wanted=Wanted(PACKAGES, "http://127.0.0.1:9/"), settings={}
    )
    assert {source.mirror: each.reason for source, each in measured.items()} == {
        "official": "no answer (Connection refused)",
        "bad": "403: blocked by its firewall",
        "near": "",
    }


def test_where_nothing_can_be_measured_nothing_is_written(site: Site) -> None:
    assert ordering.measure(site.known, ["torch"], home=site.home, wanted=Wanted({}, ""), settings={}) == {}
    assert site.order("auto") == {}
    assert not site.home.exists()


def test_an_order_that_cannot_be_kept_is_one_all_the_same(site: Site) -> None:
    site.home.write_text("a file where the folder should be")
    assert site.order("auto", "pypi") == {"pypi": ["near", "bad", "official"]}
