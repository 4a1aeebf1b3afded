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

from jingxiang import simple_index
from jingxiang.fetch import faults
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.indexes import ACCEPT
from jingxiang.fetch.sampler import PAGE_BYTES, Reply
from jingxiang.language import tr
from jingxiang.locks import CondaPackage, LockedPackage
from jingxiang.mirrors import Source

SAMPLE_BYTES = 4 << 20
SPEED_BYTES = 256 << 10  # fewer say more about the distance than about the link
TIMEOUT_S = 3.0
# Two files, of which the wheel has 0.6 MB: enough to measure speed, little enough to compare the whole with its hash.
PREFERRED = "huggingface-hub"
PREFERRED_CONDA = "libsqlite"  # 1 MB
ZIP, GZIP, BZIP2, ZSTD = b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd"
SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
CHANNEL, REGISTRY, ARCHIVE, SUITE = "conda-forge", "docker.io", "debian", "bookworm"
REPOSITORY = "ali-vilab/i2vgen-xl"


@dataclass(frozen=True)
class Wanted:
    """What the locks name, by space (`pypi`, `torch`), the index that pip itself is set to, and a package of conda."""

    packages: Mapping[str, LockedPackage]
    index: str
    conda: CondaPackage | None = None


def wanted(packages: Iterable[LockedPackage], index: str, conda: Iterable[CondaPackage] = ()) -> Wanted:
    """Of each space the package that is best to measure with: `PREFERRED`, else the one with the fewest files."""
    chosen: dict[str, LockedPackage] = {}
    for package in sorted(packages, key=lambda each: (each.name != PREFERRED, len(each.hashes))):
        chosen.setdefault(package.space, package)
    return Wanted(chosen, index, min(conda, key=lambda each: each.name != PREFERRED_CONDA, default=None))


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


@dataclass(frozen=True)
class Asker:
    """Asks one mirror, within what is left of its time."""

    client: Client
    wanted: Wanted
    deadline: float

    def page(self, url: str, accept: str = "*/*") -> Reply:
        """A whole small file."""
        reply = self.client.sample(url, seconds=self._left_s, limit=PAGE_BYTES, accept=accept, compressed=True)
        if reply.fault or reply.late:
            raise reply.fault or Fault(Kind.SILENT, tr("timed out"))
        return reply

    def sample(self, url: str, magic: bytes) -> Reply:
        """The first bytes of a file that begins with `magic`; of a large one, what has come in time says how fast it
        is."""
        reply = self.client.sample(url, seconds=self._left_s, limit=SAMPLE_BYTES, ranged=True)
        if reply.fault:
            raise reply.fault
        if reply.late and len(reply.body) < SPEED_BYTES:
            raise Fault(Kind.SILENT, tr("timed out"))
        if not reply.body.startswith(magic):
            raise faults.of_body(reply.status, reply.body)
        return reply

    @property
    def _left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


def measure_all(sources: Sequence[Source], wanted: Wanted, client: Client) -> list[Measured]:
    """All at once, in the order of the sources, within `TIMEOUT_S` and a little."""
    if not sources:
        return []
    with ThreadPoolExecutor(len(sources)) as pool:
        return list(pool.map(lambda source: measure(source, wanted, client), sources))


def measurable(source: Source, wanted: Wanted) -> bool:
    """Not where `official` means settings that we cannot read, nor without a locked file to ask for."""
    if source.space in ("pypi", "torch") and source.space not in wanted.packages:
        return False
    return bool(source.url) or source.space == "pypi"


def measure(source: Source, wanted: Wanted, client: Client) -> Measured:
    """Fetch the sample of one source and check it."""
    start = time.monotonic()
    try:
        reply, note = SAMPLES[source.space](source, Asker(client, wanted, start + TIMEOUT_S))
    except Fault as fault:
        return Measured(seconds=time.monotonic() - start, reason=fault.text)
    return Measured(reply.first_s, reply.seconds, len(reply.body), note)


def fastest(measured: Mapping[str, Measured]) -> tuple[str, ...]:
    """The names of the good ones, fastest first."""
    good = [name for name, each in measured.items() if not each.reason]
    return tuple(sorted(good, key=lambda name: measured[name].cost_s))


def _object(reply: Reply) -> dict[str, Any]:
    try:
        value = json.loads(reply.body)
    except ValueError:
        raise faults.of_body(reply.status, reply.body) from None
    if not isinstance(value, dict):
        raise faults.of_body(reply.status, reply.body)
    return value


def _wheel(source: Source, asker: Asker) -> tuple[Reply, str]:
    """A locked wheel, found through the mirror's own list: a small one whole, by its hash, a large one's beginning."""
    package = asker.wanted.packages[source.space]
    base = source.address(package.build) or asker.wanted.index
    listing = asker.page(base if source.layout == "flat" else f"{base.rstrip('/')}/{package.name}/", ACCEPT)
    files = simple_index.files(listing.body, listing.url)
    if not files:
        raise faults.of_body(listing.status, listing.body)
    listed = simple_index.of_version(files, package)
    if not listed:
        raise Fault(Kind.STALE, tr("stale: {name} {version} not there yet", name=package.name, version=package.version))
    locked = simple_index.locked(listed, package)
    if locked is None:
        raise Fault(Kind.CORRUPT, tr("checksum differs"))
    reply = asker.sample(locked.url, ZIP if locked.name.endswith(".whl") else GZIP)
    if len(reply.body) == reply.total and hashlib.sha256(reply.body).hexdigest() not in package.hashes:
        raise Fault(Kind.CORRUPT, tr("checksum differs"))
    return reply, tr("{name} {version} is there", name=package.name, version=package.version)


def _conda(source: Source, asker: Asker) -> tuple[Reply, str]:
    """A locked package, by its hash; without a lock the beginning of the channel's list of packages."""
    package = asker.wanted.conda
    if package is None:
        reply = asker.sample(f"{source.address(channel=CHANNEL)}/noarch/repodata.json.zst", ZSTD)
        return reply, _age(reply.headers.get("Last-Modified") or "")
    magic = ZIP if package.file.endswith(".conda") else BZIP2
    reply = asker.sample(f"{source.address(channel=package.channel)}/{package.path}", magic)
    if len(reply.body) == reply.total and hashlib.sha256(reply.body).hexdigest() != package.sha256:
        raise Fault(Kind.CORRUPT, tr("checksum differs"))
    return reply, tr("{name} {version} is there", name=package.name, version=package.version)


def _age(changed: str) -> str:
    try:
        hours = (time.time() - email.utils.parsedate_to_datetime(changed).timestamp()) / 3600
    except (TypeError, ValueError):
        return ""
    return tr("{hours:.0f} h old", hours=max(0.0, hours))


def _hub(source: Source, asker: Asker) -> tuple[Reply, str]:
    """hf: what the repository is now, then the beginning of one of its weights, which may come from another host.

    modelscope has other routes and file sets: the settings file that every repository there has.
    """
    name = source.repository(REPOSITORY)
    if source.layout == "modelscope":
        reply = asker.page(f"{source.url}/models/{name}/resolve/master/configuration.json")
        _object(reply)
        return reply, ""
    answer = asker.page(f"{source.url}/api/models/{name}/revision/main")
    value = _object(answer)
    revision, siblings = str(value.get("sha")), value.get("siblings")
    if not re.fullmatch("[0-9a-f]{40}", revision) or not isinstance(siblings, list):
        raise faults.of_body(answer.status, answer.body)
    weights = sorted(path for path in _paths(siblings) if path.endswith(".safetensors"))
    if not weights:
        return answer, ""
    reply = asker.sample(f"{source.url}/{name}/resolve/{revision}/{urllib.parse.quote(weights[0])}", b"")
    if reply.body[8:9] != b"{":  # safetensors: the header's length in 8 bytes, then the header, which is JSON
        raise faults.of_body(reply.status, reply.body)
    return reply, ""


def _paths(siblings: Iterable[object]) -> list[str]:
    return [str(each.get("rfilename")) for each in siblings if isinstance(each, dict)]


def _oci(source: Source, asker: Asker) -> tuple[Reply, str]:
    """Whether a registry answers there: 200, or 401 with where to get a token (OCI distribution-spec, end-1)."""
    parts = urllib.parse.urlsplit(source.address(registry=REGISTRY))
    if source.layout == "oci-layout" or parts.scheme == "file":
        reply = asker.page(f"{source.url.rstrip('/')}/oci-layout")
        if "imageLayoutVersion" not in _object(reply):
            raise faults.of_body(reply.status, reply.body)
        return reply, ""
    reply = asker.client.sample(f"{parts.scheme}://{parts.netloc}/v2/", seconds=TIMEOUT_S, limit=SPEED_BYTES)
    if reply.fault and reply.fault.challenge:
        return reply, tr("asks for a token")
    if reply.fault or reply.late:
        raise reply.fault or Fault(Kind.SILENT, tr("timed out"))
    if not reply.headers.get("Docker-Distribution-Api-Version") and reply.body.strip() not in (b"", b"{}"):
        raise faults.of_body(reply.status, reply.body)
    return reply, ""


def _apt(source: Source, asker: Asker) -> tuple[Reply, str]:
    """The signed list of a Debian release."""
    reply = asker.sample(f"{source.address(archive=ARCHIVE)}/dists/{SUITE}/InRelease", SIGNED)
    return reply, _age(reply.headers.get("Last-Modified") or "")


SAMPLES: dict[str, Callable[[Source, Asker], tuple[Reply, str]]] = {
    "pypi": _wheel,
    "torch": _wheel,
    "conda": _conda,
    "hub": _hub,
    "oci": _oci,
    "apt": _apt,
}
