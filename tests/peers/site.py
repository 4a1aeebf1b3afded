"""Mirrors of the hub on this machine, and a store to fetch from them into."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.report import MirrorReport, Report
from jingxiang.fetch.schedule import Patience, Progress
from jingxiang.fetch.session import Session
from jingxiang.mirrors import Source
from jingxiang.store import Store
from tests.peers import mirror
from tests.peers.mirror import Mirror

REPOSITORY, REVISION = "org/model", "0" * 40
MB = 1 << 20
# Tests wait for what does not come: a fifth of what users wait for is enough.
IMPATIENT = Patience(stall_s=1.0, silence_s=2.0, delays_s=(0.2, 0.8, 3.0))


def data(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def artifact(name: str, body: bytes, *, size_known: bool = True) -> Artifact:
    digest = hashlib.sha256(body).hexdigest()
    return Artifact("hub", name, (digest,), len(body) if size_known else None, REPOSITORY, REVISION, name)


def path(name: str) -> str:
    """Where a mirror has a file."""
    return f"/{REPOSITORY}/resolve/{REVISION}/{name}"


@dataclass
class Site:
    """Mirrors by name, in the order to ask; what else the sources need is in `addresses` and `domains`."""

    mirrors: dict[str, Mirror]
    store: Store
    addresses: dict[str, str] = field(default_factory=dict)
    domains: dict[str, str] = field(default_factory=dict)
    patience: Patience = IMPATIENT

    def add(self, name: str, body: bytes, *, size_known: bool = True) -> Artifact:
        """The file on every mirror."""
        for each in self.mirrors.values():
            each.files[path(name)] = body
        return artifact(name, body, size_known=size_known)

    def sources(self) -> list[Source]:
        urls = self.addresses | {name: each.url for name, each in self.mirrors.items() if name not in self.addresses}
        return [Source(name, self.domains.get(name, name), "hub", "hf", url) for name, url in urls.items()]

    def fetch(self, *wanted: Artifact, show: Callable[[Progress], None] = lambda progress: None) -> Report:
        with Session(self.store, {"hub": self.sources()}, patience=self.patience) as session:
            return session.fetch(wanted, show)

    def has(self, *wanted: Artifact) -> bool:
        """Whether all of them are in the store, whole and right, and nothing half is left."""
        blobs = [self.store.blob(digest) for each in wanted for digest in each.hashes[:1]]
        right = all(hashlib.sha256(each.read_bytes()).hexdigest() == each.name for each in blobs if each.is_file())
        return right and all(each.is_file() for each in blobs) and not self.left()

    def left(self) -> list[str]:
        folder = self.store.incoming_folder
        return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


def limited(mirror: Mirror, bytes_per_s: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer of a mirror of whose connections each brings so much at most."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = mirror.begin(request)
        for start in range(0, len(body), 16 << 10):
            request.wfile.write(body[start : start + (16 << 10)])
            if mirror.closed.wait((16 << 10) / bytes_per_s):
                return

    return answer


def said(report: Report, mirror: str) -> dict[str, int]:
    """What a mirror did wrong: for how many files, by what it said."""
    return next((dict(each.failures) for each in report.mirrors if each.mirror == mirror), {})


def of(report: Report, mirror: str) -> MirrorReport:
    return next(each for each in report.mirrors if each.mirror == mirror)


@contextlib.contextmanager
def serving(folder: Path, *names: str) -> Iterator[Site]:
    with ExitStack() as stack:
        peers = {name: stack.enter_context(mirror.serving()) for name in names}
        yield Site(peers, Store(folder / "store"))
