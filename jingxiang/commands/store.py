"""`store`: what is in the store, by kind; whether it is sound; and room made by removing what nobody needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from jingxiang import base_images, conda_locks, console, locks, weights, wheels
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.places import Places
from jingxiang.storage import NOTHING, Tally
from jingxiang.store import Pruned, Sizes, Store, Verified

OTHER = "other"


@dataclass(frozen=True)
class Kind:
    """Files that the locks of a checkout name: what scripts and what people call them, and their digests."""

    name: str
    title: str
    digests: Callable[[Places], set[str]]


def _packages(places: Places) -> set[str]:
    found = (locks.read(path) for path in sorted(places.locks.glob("*.txt")))
    return {digest for lock in found for package in lock.packages for digest in package.hashes}


def _conda(places: Places) -> set[str]:
    lock, own = places.locks / conda_locks.NAME, places.locks / conda_locks.MICROMAMBA
    found = [*conda_locks.read(lock).packages] if lock.exists() else []
    found += [conda_locks.micromamba(places.locks).package] if own.exists() else []
    return {each.sha256 for each in found}


def _weights(places: Places) -> set[str]:
    found = weights.load(places.root / weights.LOCK)
    return {file.sha256 for lock in found.values() for part in lock.parts for file in part.files if file.sha256}


def _bases(places: Places) -> set[str]:
    found = base_images.load(places.root / base_images.LOCK).values()
    return {blob.sha256 for image in found for blob in (image.manifest, *image.blobs)}


KINDS = (
    Kind("packages", "Python packages", _packages),
    Kind("conda", "conda packages", _conda),
    Kind("bases", "base images", _bases),
    Kind("weights", "model weights", _weights),
)


class FilesDamaged(JingxiangError):
    """Some files were not what they are called; nothing uses them any more."""

    def __init__(self, digests: tuple[str, ...]) -> None:
        text = tr("{count} damaged files are in quarantine now; the next fetch gets them again", count=len(digests))
        super().__init__("\n       ".join([text, *(f"sha256:{digest}" for digest in digests)]))


@dataclass(frozen=True)
class Report:
    """What there is now, by kind, and what was done."""

    kinds: dict[str, Tally]
    sizes: Sizes
    verified: Verified | None
    pruned: Pruned | None


def store(places: Places, *, verify: bool, prune: bool, as_json: bool) -> None:
    """Table on stderr, the store's folder (or one JSON object) on stdout; raises `FilesDamaged`."""
    named = {kind.name: kind.digests(places) for kind in KINDS}  # a broken lock ends it before anything is done
    found = Store(places.store)
    verified = found.verify() if verify else None
    pruned = found.prune(set().union(*named.values())) if prune else None
    if verify or prune:
        wheels.forget(found)
        wheels.forget_derived(found)
    report = Report(_by_kind(found, named), found.sizes(), verified, pruned)
    if as_json:
        console.data_json({"store": str(found.root), **asdict(report)})
    else:
        _show(report)
        console.data(str(found.root))
    if verified and verified.damaged:
        raise FilesDamaged(verified.damaged)


def _by_kind(found: Store, named: dict[str, set[str]]) -> dict[str, Tally]:
    """How much there is of each kind. A file of two kinds counts for the first."""
    tallies = dict.fromkeys((*named, OTHER), NOTHING)
    for blob in found.blobs():
        tallies[next((kind for kind in named if blob.sha256 in named[kind]), OTHER)] += blob.tally
    return tallies


def _show(report: Report) -> None:
    if report.verified:
        console.line("verify", _text(report.verified.checked))
    if report.pruned:
        console.line("prune", tr("removed: {files}", files=_text(report.pruned.removed + report.pruned.partial)))
        console.more(tr("not in this checkout's locks, but kept: {files}", files=_text(report.pruned.stayed)))
        console.more(tr("(linked into environments, of this checkout or another, or being fetched now)"))
    titles = {kind.name: kind.title for kind in KINDS}
    rows = [(tr(titles.get(name, name)), tally) for name, tally in report.kinds.items()]
    rows += [(tr("half fetched"), report.sizes.partial), (tr("of all, linked"), report.sizes.linked)]
    rows += [(tr("unpacked and compiled"), report.sizes.derived)]
    rows += [(tr("in quarantine"), report.sizes.quarantine)] if report.sizes.quarantine.files else []
    cells = [(name, str(tally.files), console.size(tally.size_bytes)) for name, tally in rows]
    console.table([(tr("kind"), tr("files"), tr("size")), *cells])


def _text(tally: Tally) -> str:
    return tr("{count} files, {size}", count=tally.files, size=console.size(tally.size_bytes))
