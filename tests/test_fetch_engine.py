"""jingxiang.fetch.engine, against real servers that fail in every way we know"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from jingxiang.fetch import network
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Client
from jingxiang.fetch.engine import Engine, Progress
from jingxiang.fetch.indexes import Configured, Indexes
from jingxiang.fetch.locations import Locations
from jingxiang.fetch.report import Report, Unavailable
from jingxiang.fetch.standings import Standings
from jingxiang.mirrors import Source
from jingxiang.store import Store
from tests.peers import faults, mirror
from tests.peers.faults import FAULTS, Fault
from tests.peers.mirror import Mirror

MB = 1 << 20
REPOSITORY, REVISION = "org/model", "0" * 40


@dataclass
class Site:
    """Files on two mirrors of the hub, `bad` and `good`, and a store to fetch them into."""

    bad: Mirror
    good: Mirror
    store: Store

    def add(self, name: str, body: bytes, *, size_known: bool = True) -> Artifact:
        for each in (self.bad, self.good):
            each.files[f"/{REPOSITORY}/resolve/{REVISION}/{name}"] = body
        digest = hashlib.sha256(body).hexdigest()
        size = len(body) if size_known else None
        return Artifact("hub", name, (digest,), size, REPOSITORY, REVISION, name)

    def sources(self, *urls: str) -> list[Source]:
        names = ("bad", "good", "third")
        return [Source(name, name, "hub", "hf", url) for name, url in zip(names, urls, strict=False)]

    def fetch(self, *wanted: Artifact, sources: list[Source] | None = None) -> Report:
        sources = self.sources(self.bad.url, self.good.url) if sources is None else sources
        with contextlib.closing(Client(network.of({}))) as client:
            locations = Locations(client, Indexes(client, Configured((), ())), {})
            return Engine(self.store, client, locations, Standings({"hub": sources})).run(wanted)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.store.incoming_folder.iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        peers = [stack.enter_context(mirror.serving()) for _ in range(2)]
        yield Site(*peers, Store(tmp_path / "store"))


def data(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("size_known", [True, False], ids=["size known", "size unknown"])
def test_a_fault_costs_seconds_and_the_file_is_right(site: Site, name: str, size_known: bool) -> None:
    artifact = site.add("weights.bin", data(3 * MB), size_known=size_known)
    small = site.add("small.bin", data(1000, 2), size_known=size_known)
    site.bad.answers[""] = faults.always(site.bad, FAULTS[name])
    start = time.monotonic()
    report = site.fetch(artifact, small)
    assert time.monotonic() - start < 8
    for each in (artifact, small):
        assert hashlib.sha256(site.store.blob(each.key).read_bytes()).hexdigest() == each.key
    assert site.left() == []
    assert {each.mirror for each in report.mirrors} == {"bad", "good"}
    bad = next(each for each in report.mirrors if each.mirror == "bad")
    assert bad.failures, report
