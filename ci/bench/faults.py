"""`invoke bench faults`: in how many of nine ways may a mirror fail, and an installation survives with the next one.

Four spaces, each against the tools that people use for it today, in the same run and against the same servers.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ci.bench import peers
from ci.bench.report import Figure, show
from jingxiang.errors import JingxiangError
from jingxiang.store import Store
from tests.peers import stocks, system
from tests.peers.mirror import serving
from tests.peers.stocks import SPACES, WAYS, Stock

Client = Callable[[Stock, str, str, Path], bool]
AT_ONCE = 6  # most of the time is spent on waiting for those that stall
OURS = "jingxiang"
NOTHING = ""  # is wrong


def ours(stock: Stock, bad: str, good: str, folder: Path) -> bool:
    store = Store(folder / "store")
    try:
        stock.fetch(store, {"bad": bad, "good": good})
    except JingxiangError:
        return False
    return stock.is_whole(store)


def clients(space: str) -> dict[str, Client]:
    found: dict[str, dict[str, Client]] = {
        "wheels": {"pip": peers.pip, "uv": peers.uv},
        "conda": {"py-rattler": peers.rattler},
        "weights": {"huggingface_hub": peers.huggingface_hub},
        "oci": {},
    }
    aria2c = {"aria2c": peers.aria2c} if peers.has_aria2c() else {}
    return {OURS: ours, **found[space], **aria2c}


class Broken(Exception):
    """A client that gets nothing from two good mirrors: it is not the mirrors that fail."""


def survives(stock: Stock, way: str, client: Client) -> bool:
    with serving() as bad, serving() as good, tempfile.TemporaryDirectory(prefix="jingxiang-bench-") as folder:
        for mirror in (bad, good):
            stock.put(mirror)
        if way != NOTHING:
            stocks.spoil(bad, stock, way)
        url = f"http://127.0.0.1:{system.free_port()}" if way == "dead" else bad.url
        return client(stock, url, good.url, Path(folder))


def main() -> None:
    made = {space: stocks.stock(space) for space in SPACES}
    cases = [(space, name, way) for space in SPACES for name in clients(space) for way in WAYS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        controls = {
            (space, name): pool.submit(survives, made[space], NOTHING, clients(space)[name])
            for space in SPACES
            for name in clients(space)
        }
        if broken := [case for case, control in controls.items() if not control.result()]:
            raise Broken(broken)
        outcomes = pool.map(lambda case: survives(made[case[0]], case[2], clients(case[0])[case[1]]), cases)
        results = dict(zip(cases, outcomes, strict=True))
    figures = []
    for space in SPACES:
        counts = {name: sum(results[space, name, way] for way in WAYS) for name in clients(space)}
        value = counts.pop(OURS)
        figures.append(Figure(f"survived_{space}", value, f"of {len(WAYS)}", len(WAYS), "higher", dict(counts)))
    notes = [
        f"{space}, {name}: lost with {', '.join(lost)}"
        for space in SPACES
        for name in clients(space)
        if (lost := [way for way in WAYS if not results[space, name, way]])
    ]
    notes.append("pip: the bad index is given last, because it takes files from the last one")
    notes.append("huggingface_hub: it knows one endpoint; the good one is tried when it has failed with the bad one")
    notes.append("aria2c: is given both addresses of each file and its checksum")
    if not peers.has_aria2c():
        notes.append("aria2c is not installed")
    show("faults", figures, notes)
    sys.exit(any(figure.holds is False for figure in figures))


if __name__ == "__main__":
    main()
