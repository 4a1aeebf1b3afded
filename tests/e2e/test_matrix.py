"""Nine ways to fail, four spaces: how many of them an installation survives when the mirror after it is good"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jingxiang.errors import JingxiangError
from jingxiang.store import Store
from tests.peers import stocks, system
from tests.peers.mirror import serving
from tests.peers.stocks import SPACES, WAYS, Stock

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_proxy")]


def survives(stock: Stock, way: str, folder: Path) -> bool:
    store = Store(folder / f"{stock.space}-{way}")
    with serving() as bad, serving() as good:
        for mirror in (bad, good):
            stock.put(mirror)
        stocks.spoil(bad, stock, way)
        url = f"http://127.0.0.1:{system.free_port()}" if way == "dead" else bad.url
        try:
            report = stock.fetch(store, {"bad": url, "good": good.url})
        except JingxiangError:
            return False
    failed = {each.mirror for each in report.mirrors if each.failures}
    assert failed == {"bad"}, report
    return stock.is_whole(store)


def test_every_fault_is_survived_in_every_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = {space: stocks.stock(space) for space in SPACES}
    cases = [(space, way) for space in SPACES for way in WAYS]
    with ThreadPoolExecutor(len(cases)) as pool:  # nearly all of the time is spent on waiting for those that stall
        results = dict(
            zip(cases, pool.map(lambda case: survives(made[case[0]], case[1], tmp_path), cases), strict=True)
        )
    survived = {space: sum(results[space, way] for way in WAYS) for space in SPACES}
    lines: list[tuple[str, ...]] = [("", *SPACES)]
    lines += [(way, *("ok" if results[space, way] else "LOST" for space in SPACES)) for way in WAYS]
    lines += [("survived", *(f"{count} of {len(WAYS)}" for count in survived.values()))]
    with capsys.disabled():
        sys.stdout.write(
            "\n" + "".join(f"{way:14}{''.join(f'{cell:>9}' for cell in cells)}\n" for way, *cells in lines)
        )
    assert survived == dict.fromkeys(SPACES, len(WAYS))
