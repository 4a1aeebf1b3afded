"""A real artifact of each space, fetched from a mirror in part and checked.

A status of 200 proves nothing: mirrors answer with web pages, old files and half files. What a mirror gives counts only
if it is of the right kind and, where a lock names it, has the right hash. Standard library only.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from jingxiang import probe, simple_index
from jingxiang.language import tr
from jingxiang.locks import LockedPackage
from jingxiang.mirrors import Source
from jingxiang.probe import Reply

SAMPLE_BYTES = 4 << 20
SPEED_BYTES = 256 << 10  # fewer say more about the distance than about the link
# PEP 691 before PEP 503, as pip asks.
INDEX = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.2, text/html; q=0.1"
ZIP, GZIP, ZSTD = b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
CHANNEL, REGISTRY, ARCHIVE, SUITE = "conda-forge", "docker.io", "debian", "bookworm"
REPOSITORY = "ali-vilab/i2vgen-xl"


@dataclass(frozen=True)
class Wanted:
    """What the locks name, by space (`pypi`, `torch`), and the index that pip itself is set to."""

    packages: Mapping[str, LockedPackage]
    index: str


@dataclass(frozen=True)
class Measured:
    """How a mirror did: seconds to the first byte and for the sample, its bytes; or `reason`, why it is of no use."""

    first_s: float = 0.0
    seconds: float = 0.0
    count: int = 0
    note: str = ""
    reason: str = ""

    @property
    def speed_mb_s(self) -> float | None:
        """Millions of bytes per second after the first one; None where the sample is too small to say."""
        if self.count < SPEED_BYTES:
            return None
        return self.count / max(self.seconds - self.first_s, 1e-6) / 1e6

    @property
    def cost_s(self) -> float:
        """Seconds that a file of `SAMPLE_BYTES` would take, or the sample took."""
        speed = self.speed_mb_s
        return self.first_s + SAMPLE_BYTES / 1e6 / speed if speed else self.seconds


class Unfit(Exception):
    """What a mirror gives is of no use; the text says why."""


def measure_all(sources: Sequence[Source], wanted: Wanted) -> list[Measured]:
    """All at once, in the order of the sources, within `probe.TIMEOUT_S` and a little."""
    if not sources:
        return []
    with ThreadPoolExecutor(len(sources)) as pool:
        return list(pool.map(lambda source: measure(source, wanted), sources))


def measurable(source: Source, wanted: Wanted) -> bool:
    """Not where `official` means settings that we cannot read, nor without a locked file to ask for."""
    if source.space in ("pypi", "torch") and source.space not in wanted.packages:
        return False
    return bool(source.url) or source.space == "pypi"


def measure(source: Source, wanted: Wanted) -> Measured:
    """Fetch the sample of one source and check it."""
    start = time.monotonic()
    try:
        reply, note = SAMPLES[source.space](source, wanted, start + probe.TIMEOUT_S)
    except Unfit as problem:
        return Measured(seconds=time.monotonic() - start, reason=str(problem))
    return Measured(reply.first_s, reply.seconds, len(reply.body), note)


def fastest(measured: Mapping[str, Measured]) -> tuple[str, ...]:
    """The names of the good ones, fastest first."""
    good = [name for name, each in measured.items() if not each.reason]
    return tuple(sorted(good, key=lambda name: measured[name].cost_s))


def _page(url: str, deadline: float, accept: str = "*/*") -> Reply:
    reply = probe.get(url, deadline, accept=accept)
    if reply.problem or reply.late:
        raise Unfit(reply.problem or tr("timed out"))
    return reply


def _sample(url: str, deadline: float, magic: bytes) -> Reply:
    """The first bytes of a file that begins with `magic`; what has come of a large one in time says how fast it is."""
    reply = probe.get(url, deadline, limit=SAMPLE_BYTES, ranged=True)
    if reply.problem:
        raise Unfit(reply.problem)
    if reply.late and len(reply.body) < SPEED_BYTES:
        raise Unfit(tr("timed out"))
    if not reply.body.startswith(magic):
        raise Unfit(_instead(reply))
    return reply


def _instead(reply: Reply) -> str:
    if reply.body[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return tr("{status} but HTML: not a mirror of this space", status=reply.status)
    if not reply.body:
        return tr("{status} but empty", status=reply.status)
    return tr("{status} but not what was asked for", status=reply.status)


def _object(reply: Reply) -> dict[str, Any]:
    try:
        value = json.loads(reply.body)
    except ValueError:
        raise Unfit(_instead(reply)) from None
    if not isinstance(value, dict):
        raise Unfit(_instead(reply))
    return value


def _wheel(source: Source, wanted: Wanted, deadline: float) -> tuple[Reply, str]:
    """A locked wheel, found through the mirror's own list: a small one whole, by its hash, a large one's beginning."""
    package = wanted.packages[source.space]
    base = source.address(package.build) or wanted.index
    listing = _page(base if source.layout == "flat" else f"{base.rstrip('/')}/{package.name}/", deadline, INDEX)
    files = simple_index.files(listing.body, listing.url)
    if not files:
        raise Unfit(_instead(listing))
    listed = simple_index.of_version(files, package)
    if not listed:
        raise Unfit(tr("stale: {name} {version} not there yet", name=package.name, version=package.version))
    locked = simple_index.locked(listed, package)
    if locked is None:
        raise Unfit(tr("checksum differs"))
    reply = _sample(locked.url, deadline, ZIP if locked.name.endswith(".whl") else GZIP)
    if len(reply.body) == reply.total and hashlib.sha256(reply.body).hexdigest() not in package.hashes:
        raise Unfit(tr("checksum differs"))
    return reply, tr("{name} {version} is there", name=package.name, version=package.version)


def _conda(source: Source, wanted: Wanted, deadline: float) -> tuple[Reply, str]:
    """The beginning of the channel's list of packages: every installation needs it first."""
    url = f"{source.address(channel=CHANNEL)}/noarch/repodata.json.zst"
    reply = _sample(url, deadline, ZSTD)
    return reply, _age(reply.headers.get("Last-Modified") or "")


def _age(changed: str) -> str:
    try:
        hours = (time.time() - email.utils.parsedate_to_datetime(changed).timestamp()) / 3600
    except (TypeError, ValueError):
        return ""
    return tr("{hours:.0f} h old", hours=max(0.0, hours))


def _hub(source: Source, wanted: Wanted, deadline: float) -> tuple[Reply, str]:
    """hf: what the repository is now, then the beginning of one of its weights, which may come from another host.

    modelscope has other routes and file sets: the settings file that every repository there has.
    """
    name = source.repository(REPOSITORY)
    if source.layout == "modelscope":
        reply = _page(f"{source.url}/models/{name}/resolve/master/configuration.json", deadline)
        _object(reply)
        return reply, ""
    answer = _page(f"{source.url}/api/models/{name}/revision/main", deadline)
    value = _object(answer)
    revision, siblings = str(value.get("sha")), value.get("siblings")
    if not re.fullmatch("[0-9a-f]{40}", revision) or not isinstance(siblings, list):
        raise Unfit(_instead(answer))
    weights = sorted(path for path in _paths(siblings) if path.endswith(".safetensors"))
    if not weights:
        return answer, ""
    reply = _sample(f"{source.url}/{name}/resolve/{revision}/{urllib.parse.quote(weights[0])}", deadline, b"")
    if reply.body[8:9] != b"{":  # safetensors: the header's length in 8 bytes, then the header, which is JSON
        raise Unfit(_instead(reply))
    return reply, ""


def _paths(siblings: Iterable[object]) -> list[str]:
    return [str(each.get("rfilename")) for each in siblings if isinstance(each, dict)]


def _oci(source: Source, wanted: Wanted, deadline: float) -> tuple[Reply, str]:
    """Whether a registry answers there: 200, or 401 with where to get a token (OCI distribution-spec, end-1)."""
    parts = urllib.parse.urlsplit(source.address(registry=REGISTRY))
    if parts.scheme == "file":  # a folder in the OCI image layout
        reply = _page(f"{source.url.rstrip('/')}/oci-layout", deadline)
        if "imageLayoutVersion" not in _object(reply):
            raise Unfit(_instead(reply))
        return reply, ""
    reply = probe.get(f"{parts.scheme}://{parts.netloc}/v2/", deadline)
    if reply.status == 401 and reply.headers.get("Www-Authenticate"):
        return reply, tr("asks for a token")
    if reply.problem or reply.late:
        raise Unfit(reply.problem or tr("timed out"))
    if not reply.headers.get("Docker-Distribution-Api-Version") and reply.body.strip() not in (b"", b"{}"):
        raise Unfit(_instead(reply))
    return reply, ""


def _apt(source: Source, wanted: Wanted, deadline: float) -> tuple[Reply, str]:
    """The signed list of a Debian release."""
    reply = _sample(f"{source.address(archive=ARCHIVE)}/dists/{SUITE}/InRelease", deadline, SIGNED)
    return reply, _age(reply.headers.get("Last-Modified") or "")


SAMPLES: dict[str, Callable[[Source, Wanted, float], tuple[Reply, str]]] = {
    "pypi": _wheel,
    "torch": _wheel,
    "conda": _conda,
    "hub": _hub,
    "oci": _oci,
    "apt": _apt,
}
