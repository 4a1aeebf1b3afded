"""What models are made of, from the hubs into app/models.lock: believed once, enforced from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from jingxiang import console, models, storage, weights
from jingxiang.commands import sources
from jingxiang.commands.sources import Sources
from jingxiang.digest import sha256_bytes
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.report import Unavailable
from jingxiang.hubs import huggingface
from jingxiang.hubs.huggingface import NotShown, Refused
from jingxiang.language import tr
from jingxiang.mirrors import Source
from jingxiang.places import Places
from jingxiang.weights import LockedFile, LockedPart, ModelLock, Part, Weights

T = TypeVar("T")


class NoWeights(UsageError):
    """A model that is made here."""

    def __init__(self, name: str) -> None:
        super().__init__(tr("{name}: is made on this machine; there is nothing to fetch", name=name))


def hubs(places: Places, mirror: str) -> Sources:
    """The hubs of mirrors.toml, that of `mirror` first, with the user's token."""
    return sources.of(places, mirror, "hub", token=huggingface.token())


def relock(places: Places, names: Sequence[str], *, mirror: str) -> None:
    """Believe the hubs once more: for another revision in app/models.toml, or other files."""
    catalog = models.load(places.root / models.FILE)
    specs = [*map(catalog.model, names)]
    found = hubs(places, mirror)
    for spec in specs:
        if spec.weights is None:
            raise NoWeights(spec.name)
        write(places, spec.name, asked(found, spec.name, spec.weights))


def write(places: Places, name: str, lock: ModelLock) -> None:
    """Put a model's entry into the lock, and say so."""
    path = places.root / weights.LOCK
    locks = {**weights.load(path), name: lock}
    with storage.writing(path.parent):
        path.write_text(weights.written(locks), encoding="utf-8")
    console.line("lock", tr("{model} is written to {lock}: commit it", model=name, lock=weights.LOCK))


def asked(found: Sources, name: str, wanted: Weights) -> ModelLock:
    """What the hubs say that the model's files are. Raises `Pickle`, `Refused`, `Unavailable`.

    Of small files hubs know only git's names: they are read now, and locked by SHA-256 like the others.
    """

    def look(client: Client, part: Part, source: Source) -> LockedPart:
        if source.layout != "hf":
            raise Fault(Kind.ABSENT, tr("can only be asked when the model is locked: its revisions have other names"))
        files = huggingface.listed(client, source, part.repository, part.revision, token=found.token)
        chosen = sorted(file for file in files if part.wants(file.path))
        weights.check(name, wanted, (file.path for file in chosen))
        if not chosen:
            raise Fault(Kind.ABSENT, tr("has none of the files: {files}", files=", ".join(part.files)))
        whole = LockedPart(part.repository, part.revision, tuple(chosen))
        return _read(client, found.token, whole, source)

    parts = []
    with found.client() as client:
        for part in wanted.parts:
            mirror, locked = _first(found, part.repository, partial(look, client, part), gated=wanted.gated)
            text = tr("{model}: not locked yet: files and hashes of {repository} as {mirror} says, revision {revision}",
                      model=name, repository=part.repository, mirror=mirror,
                      revision=part.revision[:8])  # fmt: skip
            console.line("lock", text)
            parts.append(locked)
    return weights.lock(wanted, parts)


def completed(found: Sources, name: str, wanted: Weights, lock: ModelLock) -> ModelLock:
    """The lock with the SHA-256 of every file: those known by git's name are read, from any hub, and compared with it.

    Raises `Refused`, `Unavailable`.
    """
    unnamed = sum(not file.sha256 for part in lock.parts for file in part.files)
    with found.client() as client:
        asks = [(part.repository, partial(_read, client, found.token, part)) for part in lock.parts]
        parts = [_first(found, repository, ask, gated=wanted.gated)[1] for repository, ask in asks]
    console.line("lock", tr("{model}: {count} small files are as git names them", model=name, count=unnamed))
    return weights.lock(wanted, parts)


def _read(client: Client, token: str, part: LockedPart, source: Source) -> LockedPart:
    """The part with the SHA-256 of its small files, which are read. Raises `Fault`."""

    def named(file: LockedFile) -> LockedFile:
        if file.sha256:
            return file
        body = huggingface.content(client, source, part.repository, part.revision, file, token=token)
        return LockedFile(file.path, len(body), sha256_bytes(body))

    return replace(part, files=tuple(map(named, part.files)))


def _first(found: Sources, repository: str, ask: Callable[[Source], T], *, gated: bool) -> tuple[str, T]:
    """See `Sources.first`; for a gated repository, `refusal` says what is wrong."""
    try:
        return found.first(repository, ask)
    except Unavailable as error:
        raise (refusal(found, repository, error) if gated else error) from error


def refusal(found: Sources, repository: str, error: Unavailable) -> JingxiangError:
    """What it means that a gated repository cannot be had: only who has seen the token can have refused it."""
    closed = {mirror for missed in error.missed for mirror, reason in missed.reasons if huggingface.closed(reason)}
    if closed & {source.mirror for source in found.order if source.send_token or not found.token}:
        return Refused(repository, token=bool(found.token))
    return NotShown(error) if closed else error
