"""jingxiang.fetch.engine: how a file is shared among connections and mirrors of different speed"""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.peers import site
from tests.peers.site import MB, Site, data, path

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_proxy")]

Answer = Callable[[BaseHTTPRequestHandler], None]


def test_no_more_than_four_connections_to_a_host(single: Site) -> None:
    wanted = [single.add(f"{number}.bin", data(40_000, number)) for number in range(40)]
    only = single.mirrors["only"]
    only.answers[""] = site.limited(only, 2_000_000)
    single.fetch(*wanted)
    assert single.has(*wanted)
    assert (only.most, only.connections) == (4, 4)  # and they were used again


def test_a_large_file_comes_over_several_connections_and_mirrors(three: Site) -> None:
    wanted = three.add("weights.bin", data(24 * MB))
    for each in three.mirrors.values():
        each.answers[""] = site.limited(each, 1_000_000)
    report = three.fetch(wanted)
    assert three.has(wanted)
    assert three.mirrors["one"].most in (4, 5)  # a server may notice late that one has been closed
    assert len([each for each in report.mirrors if each.size_bytes > MB]) >= 2
    assert sum(each.size_bytes for each in report.mirrors) == 24 * MB  # and no byte was taken twice


def test_a_mirror_that_would_not_help_gets_little(three: Site) -> None:
    wanted = three.add("weights.bin", data(24 * MB))
    for each in three.mirrors.values():
        each.answers[""] = site.limited(each, 1_500_000)
    two = three.mirrors["two"]
    two.answers[""] = site.limited(two, 60_000)
    report = three.fetch(wanted)
    assert three.has(wanted)
    assert site.of(report, "two").size_bytes < 2 * MB


def test_a_slow_first_choice_gets_little(pair: Site) -> None:
    wanted = pair.add("weights.bin", data(16 * MB))
    bad, good = pair.mirrors.values()
    bad.answers[""] = site.limited(bad, 100_000)
    good.answers[""] = site.limited(good, 2_000_000)
    report = pair.fetch(wanted)
    assert pair.has(wanted)
    assert site.of(report, "good").size_bytes > 12 * MB


def test_the_origin_is_left_alone_while_a_mirror_works(tmp_path: Path) -> None:
    with site.serving(tmp_path, "near", "official") as found:
        wanted = [found.add("weights.bin", data(3 * MB)), *(found.add(f"{n}.bin", data(9000, n)) for n in range(20))]
        for each in found.mirrors.values():
            each.answers[""] = site.limited(each, 1_000_000)
        found.fetch(*wanted)
        assert found.has(*wanted)
        assert found.mirrors["official"].asked == []
    with site.serving(tmp_path, "official", "near") as found:  # chosen, it stays the only one
        wanted = [found.add("other.bin", data(3 * MB, 2))]
        for each in found.mirrors.values():
            each.answers[""] = site.limited(each, 1_000_000)
        found.fetch(*wanted)
        assert found.mirrors["near"].asked == []


@pytest.mark.parametrize("guilty", ["one", "two", "three"])
def test_of_several_that_brought_a_file_the_right_one_is_to_blame(three: Site, guilty: str) -> None:
    wanted = three.add("weights.bin", data(6 * MB))
    for name, each in three.mirrors.items():
        if name == guilty:  # one byte in every 64 KB, so that whatever it brings is wrong
            each.files[path("weights.bin")] = bytes(
                byte ^ (place % 65_536 == 7) for place, byte in enumerate(data(6 * MB))
            )
        each.answers[""] = site.limited(each, 700_000)
    report = three.fetch(wanted)
    assert three.has(wanted)
    blamed = {each.mirror: dict(each.failures) for each in report.mirrors if each.failures}
    assert set(blamed) <= {guilty}
    assert guilty not in blamed or list(blamed[guilty]) == ["checksum differs"]


def test_two_that_lie_in_the_same_way_are_found_out(three: Site) -> None:
    wanted = three.add("weights.bin", data(3 * MB))
    for name in ("one", "two"):
        three.mirrors[name].files[path("weights.bin")] = data(3 * MB, 7)
    report = three.fetch(wanted)
    assert three.has(wanted)
    assert site.said(report, "one") == site.said(report, "two") == {"checksum differs": 1}


def test_a_stall_is_told_from_a_slow_disk_or_a_full_queue(single: Site) -> None:
    """Those that wait for their turn with a slow server do not count as silent."""
    wanted = [single.add(f"{number}.bin", data(1000, number)) for number in range(24)]
    only = single.mirrors["only"]

    def slow(request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.6)
        only.send(request, only.files[request.path])

    only.answers[""] = slow
    report = single.fetch(*wanted)
    assert single.has(*wanted)
    assert report.mirrors[0].failures == {}


def test_a_link_that_is_slow_for_everybody_is_borne(single: Site) -> None:
    """Slower than what counts as a stall, but nobody else is there to ask."""
    wanted = single.add("small.bin", data(30_000))
    only = single.mirrors["only"]
    only.answers[""] = site.limited(only, 8_000)
    assert single.patience.stall_bytes_per_s > 8_000
    single.fetch(wanted)
    assert single.has(wanted)
