"""What a mirror of each space has, and the nine ways in which a whole mirror is known to fail.

The ways are those of ../shared/facts/mirrors.md, section 11.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jingxiang.fetch import resolve
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.report import Report
from jingxiang.fetch.session import Session
from jingxiang.locks import LockedPackage
from jingxiang.mirrors import Source
from jingxiang.store import Store
from tests.peers import channel, faults, hub
from tests.peers.mirror import Mirror, wheel
from tests.peers.site import MB, data

WAYS = ("dead", "500", "403", "404 for all", "404 for files", "corrupt", "truncated", "HTML", "stall")
SPACES = ("wheels", "conda", "weights", "oci")
REPOSITORY = "org/model"
IMAGE = "library/base"


@dataclass(frozen=True)
class Stock:
    """Files by their paths on a mirror, and what is wanted of them: packages of a lock, or artifacts."""

    space: str
    files: Mapping[str, bytes]
    headers: Mapping[str, Mapping[str, str]]
    payload: tuple[str, ...]  # the paths of the files themselves; the others are lists of them
    packages: tuple[LockedPackage, ...] = ()
    artifacts: tuple[Artifact, ...] = ()

    def put(self, mirror: Mirror) -> None:
        mirror.files |= self.files
        mirror.headers |= self.headers

    def source(self, name: str, url: str) -> Source:
        space, layout, path = {
            "wheels": ("pypi", "pep503", "/simple"), "conda": ("conda", "conda", "/{channel}"),
            "weights": ("hub", "hf", ""), "oci": ("oci", "oci", ""),
        }[self.space]  # fmt: skip
        return Source(name, name, space, layout, url + path)

    def fetch(self, store: Store, urls: Mapping[str, str]) -> Report:
        """With our own engine, from mirrors by name in that order. Raises what the engine raises."""
        sources = [self.source(name, url) for name, url in urls.items()]
        with Session(store, {sources[0].space: sources}) as session:
            wanted = session.resolve(self.packages, resolve.target("3.11")) if self.packages else self.artifacts
            return session.fetch(wanted)

    def is_whole(self, store: Store) -> bool:
        """Whether every file is in the store, byte for byte."""
        blobs = [
            (store.blob(hashlib.sha256(body).hexdigest()), body) for body in map(self.files.get, self.payload) if body
        ]
        return len(blobs) == len(self.payload) and all(
            path.is_file() and path.read_bytes() == body for path, body in blobs
        )


def stock(space: str) -> Stock:
    """Five small files and one of 3 MB."""
    return {"wheels": _wheels, "conda": _conda, "weights": _weights, "oci": _oci}[space]()


def spoil(mirror: Mirror, stock: Stock, way: str) -> None:
    """Make a mirror fail for good, in every way but `dead`: then it has to have no server at all."""
    whole = {"500": faults.status(500), "403": faults.status(403), "404 for all": faults.status(404)}
    files = {
        "404 for files": faults.status(404), "corrupt": faults.corrupt, "truncated": faults.truncated,
        "HTML": faults.page, "stall": faults.stall,
    }  # fmt: skip
    if way == "dead":
        return
    if way in whole:
        mirror.answers[""] = faults.always(mirror, whole[way])
    else:
        for path in stock.payload:
            mirror.answers[path] = faults.always(mirror, files[way])


def _wheels() -> Stock:
    mirror = Mirror()
    made = [wheel(f"pack{number}", "1.0", size=3 * MB if number == 5 else 2000) for number in range(6)]
    for each in made:
        mirror.add_index(each)
    packages = tuple(LockedPackage(each.name, each.version, "", (each.sha256,)) for each in made)
    return Stock("wheels", mirror.files, mirror.headers, tuple(f"/packages/{each.file}" for each in made), packages)


def _conda() -> Stock:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for number in range(6):
            channel.package(root / "conda-forge", f"pack{number}", size=3 * MB if number == 5 else 2000)
        channel.index(root / "conda-forge")
        files = {f"/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}
    payload = tuple(sorted(path for path in files if path.endswith(".conda")))
    artifacts = tuple(
        Artifact("conda", Path(path).name, (_sha256(files[path]),), len(files[path]), "conda-forge",
                 path=path.removeprefix("/conda-forge/"))
        for path in payload
    )  # fmt: skip
    return Stock("conda", files, {}, payload, artifacts=artifacts)


def _weights() -> Stock:
    names = {f"part-{number}.safetensors": data(3 * MB if number == 5 else 2000, number) for number in range(5)}
    bodies = names | {"config.json": b'{"model": 1}', "part-5.safetensors": data(3 * MB, 5)}
    mirror = Mirror()
    revision = hub.add(mirror, REPOSITORY, bodies)
    artifacts = tuple(
        Artifact("hub", name, (_sha256(body),), len(body), REPOSITORY, revision, name) for name, body in bodies.items()
    )
    payload = tuple(f"/{REPOSITORY}/resolve/{revision}/{name}" for name in bodies)
    return Stock("weights", mirror.files, mirror.headers, payload, artifacts=artifacts)


def _oci() -> Stock:
    blobs = {_sha256(body): body for body in (data(3 * MB if number == 5 else 2000, number) for number in range(6))}
    files = {f"/v2/{IMAGE}/blobs/sha256:{digest}": body for digest, body in blobs.items()}
    artifacts = tuple(
        Artifact("oci", f"sha256:{digest[:12]}", (digest,), len(body), f"docker.io/{IMAGE}")
        for digest, body in blobs.items()
    )
    return Stock("oci", files, {}, tuple(files), artifacts=artifacts)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
