"""`fetch`: the weights of models, locked by their hashes, from whichever hub works into the store, and a folder of
links to them that the pipelines load."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from jingxiang import console, disk, inventory, mirrors, models, ordering, pip_client, samples, storage, weights
from jingxiang.digest import sha256_bytes
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.fetch import network
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.report import Missed, Unavailable
from jingxiang.fetch.session import Session
from jingxiang.hubs import huggingface
from jingxiang.inventory import ADDED, CHANGED, MISSING
from jingxiang.language import tr
from jingxiang.mirrors import MirrorSet, Source
from jingxiang.models import ModelSpec
from jingxiang.places import Places
from jingxiang.progress import Bar
from jingxiang.store import Store
from jingxiang.weights import LockedFile, LockedPart, Part, Weights

LARGE_BYTES = 1_000_000_000  # from here on the disk's speed is worth a second
ACCEPTED = "licences"  # in our home: names of models whose licence the user has accepted
READY, PARTIAL, ABSENT, STALE, UNLOCKED, MADE = "ready", "partial", "absent", "stale", "unlocked", "made"


@dataclass(frozen=True)
class State:
    """One line of `fetch --list`: `state` is one of ready, partial, absent, stale (its lock does not fit the table any
    more), unlocked, made."""

    name: str
    title: str
    state: str
    size_bytes: int | None
    licence: str
    commercial: bool
    gated: bool


class LicenceNotAccepted(UsageError):
    """A licence with conditions, which nobody has said yes to."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        text = tr("{model}: its licence has conditions: {name}, {url}", model=spec.name, name=weights.licence.name,
                  url=weights.licence.url)  # fmt: skip
        hint = f"python3 tasks.py fetch {spec.name} --accept-license"
        super().__init__(text, hints=(tr("read it; if you accept it: {command}", command=hint),))


class DamagedWeights(JingxiangError):
    """Files of a model are not as locked; those that were damaged are out of the store."""

    def __init__(self, name: str, count: int) -> None:
        text = tr("{name}: {count} differences from the lock", name=name, count=count)
        super().__init__(text, hints=(f"python3 tasks.py fetch {name}",))


class NotFetched(UsageError):
    """Nobody knows yet what the model is made of."""

    def __init__(self, name: str) -> None:
        super().__init__(tr("{name}: has not been fetched yet", name=name), hints=(f"python3 tasks.py fetch {name}",))


class NoWeights(UsageError):
    """A model that is made here."""

    def __init__(self, name: str) -> None:
        super().__init__(tr("{name}: is made on this machine; there is nothing to fetch", name=name))


def fetch(
    places: Places,
    *,
    names: Sequence[str],
    mirror: str,
    every: bool = False,
    dry_run: bool = False,
    accept: bool = False,
    listed: bool = False,
    as_json: bool = False,
) -> None:
    """Folders on stdout, a line each (or one JSON object). Raises `Refused`, `LicenceNotAccepted`, `Unavailable`."""
    catalog = models.load(places.root / "app" / "models.toml")
    if listed:
        _list(places, catalog.models, as_json=as_json)
        return
    chosen = [spec for spec in catalog.models.values() if spec.weights] if every else [*map(catalog.model, names)]
    if not chosen:
        raise UsageError(tr("which model? one or more names, or --all; see: python3 tasks.py fetch --list"))
    folders = {spec.name: str(get(places, spec, mirror=mirror, dry_run=dry_run, accept=accept)) for spec in chosen}
    if as_json:
        console.data_json(folders)
    elif not dry_run:
        for folder in folders.values():
            console.data(folder)


def get(places: Places, spec: ModelSpec, *, mirror: str, dry_run: bool = False, accept: bool = False) -> Path:
    """The folder of a model's weights, made if it is not there."""
    if spec.weights is None:
        raise NoWeights(spec.name)
    known = mirrors.chosen(places.root, mirror)
    locks = weights.load(places.root / weights.LOCK)
    if spec.name in locks:
        parts = weights.fitting(spec.name, spec.weights, locks[spec.name])
        if _in_place(places, spec, parts):
            _link(places, spec, parts)
            return places.models / spec.name
    _allowed(places, spec, spec.weights, accept=accept, dry_run=dry_run)
    token = huggingface.token()
    if spec.weights.gated and not token:
        raise huggingface.Refused(spec.weights.parts[0].repository, token=False)
    orders, settings = _orders(places, known, mirror)
    if spec.name not in locks:
        parts = _asked(spec, orders["hub"], settings, token=token)
        if not dry_run:
            _write(places, spec, parts)
    artifacts = list(_artifacts(parts))
    missing = [each for each in artifacts if not Store(places.store).has(each.key)]
    total = console.size(sum(each.size_bytes or 0 for each in missing))
    text = tr("{model}: {count} of {all} files to fetch, {size}", model=spec.name, count=len(missing),
              all=len(artifacts), size=total)  # fmt: skip
    console.line("plan", text)
    if dry_run:
        return places.models / spec.name
    if missing:
        _warn_of_disk(places, sum(each.size_bytes or 0 for each in missing))
        try:
            with Session(Store(places.store), orders, settings, {"hub": token}) as session, Bar() as bar:
                report = session.fetch(artifacts, bar)
        except Unavailable as error:
            reasons = [reason for missed in error.missed for _, reason in missed.reasons]
            if spec.weights.gated and any(map(huggingface.closed, reasons)):
                raise huggingface.Refused(spec.weights.parts[0].repository, token=bool(token)) from error
            raise
        for number, line in enumerate(report.lines()):
            console.line("fetch", line) if number == 0 else console.more(line)
    _link(places, spec, parts)
    return places.models / spec.name


def _asked(
    spec: ModelSpec, sources: Sequence[Source], settings: Mapping[str, str], *, token: str
) -> tuple[LockedPart, ...]:
    """What the hubs say that the model's files are: they are believed this once."""
    assert spec.weights
    client = Client(network.of(settings))
    try:
        return tuple(_locked(client, spec, part, sources, token=token) for part in spec.weights.parts)
    finally:
        client.close()


def _write(places: Places, spec: ModelSpec, parts: tuple[LockedPart, ...]) -> None:
    path = places.root / weights.LOCK
    locks = {**weights.load(path), spec.name: parts}
    with storage.writing(path.parent):
        path.write_text(weights.written(locks), encoding="utf-8")
    text = tr("{model} is written to {lock}: commit it", model=spec.name, lock=weights.LOCK)
    console.line("lock", text)


def locked(places: Places, name: str, *, mirror: str) -> tuple[LockedPart, ...]:
    """What a model is made of, all of it in the store."""
    spec = models.load(places.root / "app" / "models.toml").model(name)
    get(places, spec, mirror=mirror)
    assert spec.weights  # `get` refuses one that has none
    return weights.fitting(name, spec.weights, weights.load(places.root / weights.LOCK)[name])


def relock(places: Places, names: Sequence[str], *, mirror: str) -> None:
    """Believe the hubs once more: for another revision in app/models.toml, or other files."""
    catalog = models.load(places.root / "app" / "models.toml")
    specs = [*map(catalog.model, names)]
    orders, settings = _orders(places, mirrors.chosen(places.root, mirror), mirror)
    for spec in specs:
        if spec.weights is None:
            raise NoWeights(spec.name)
        _write(places, spec, _asked(spec, orders["hub"], settings, token=huggingface.token()))


def verify(places: Places, name: str, *, as_json: bool) -> None:
    """Read every file of a model again, in its folder and in the store; what is not as locked is listed, and taken
    out of both, so that nothing loads it.

    Raises `DamagedWeights`, `NotFetched`.
    """
    spec = models.load(places.root / "app" / "models.toml").model(name)
    if spec.weights is None:
        raise NoWeights(name)
    locked = weights.load(places.root / weights.LOCK).get(name)
    if locked is None:
        raise NotFetched(name)
    folder, store = places.models / name, Store(places.store)
    files = _files(spec, weights.fitting(name, spec.weights, locked))
    found = inventory.looks(folder) if folder.is_dir() else {}
    wrong = dict.fromkeys(sorted(found.keys() - files), ADDED)
    for path, sha256 in files.items():
        if store.has(sha256) and not store.is_sound(sha256):
            store.remove(sha256)
        if path not in found:
            wrong[path] = MISSING
        elif found[path] != sha256:
            wrong[path] = CHANGED
            (folder / path).unlink()
    if as_json:
        console.data_json({"model": name, "files": len(files), "differences": wrong})
    else:
        for path, kind in wrong.items():
            console.data(f"{kind:8} {path}")
    if wrong:
        raise DamagedWeights(name, len(wrong))
    console.line("verify", tr("{count} files as locked", count=f"{len(files):,}"))


def _locked(client: Client, spec: ModelSpec, part: Part, sources: Sequence[Source], *, token: str) -> LockedPart:
    """Of small files hubs know only git's names: they are read now, and locked like the others."""
    assert spec.weights
    reasons: list[tuple[str, str]] = []
    for source in sources:
        if source.layout != "hf":  # other hubs have other lists; only bytes of the same hash are the same there
            continue
        asked = partial(huggingface.content, client, source, part.repository, part.revision, token=token)
        try:
            found = huggingface.listed(client, source, part.repository, part.revision, token=token)
            wanted = [file for file in found if part.wants(file.path)]
            weights.check(spec.name, spec.weights, (file.path for file in wanted))
            if not wanted:
                raise Fault(Kind.ABSENT, tr("has none of the files: {files}", files=", ".join(part.files)))
            files = tuple(
                sorted(LockedFile(each.path, each.size, each.sha256 or sha256_bytes(asked(each))) for each in wanted)
            )
        except Fault as fault:
            reasons.append((source.mirror, fault.text))
            continue
        text = tr("{model}: not locked yet: files and hashes of {repository} as {mirror} says, revision {revision}",
                  model=spec.name, repository=part.repository, mirror=source.mirror,
                  revision=part.revision[:8])  # fmt: skip
        console.line("lock", text)
        return LockedPart(part.repository, part.revision, files)
    if spec.weights.gated and any(huggingface.closed(reason) for _, reason in reasons):
        raise huggingface.Refused(part.repository, token=bool(token))
    raise Unavailable([Missed(part.repository, tuple(reasons))])


def _allowed(places: Places, spec: ModelSpec, wanted: Weights, *, accept: bool, dry_run: bool) -> None:
    """Show the licence; raise `LicenceNotAccepted` where its conditions have to be accepted before anything comes."""
    licence = wanted.licence
    use = tr("commercial use allowed") if licence.commercial else tr("no commercial use, or only on conditions")
    console.line("licence", f"{licence.name}, {use}: {licence.url}")
    if licence.free or dry_run:
        return
    path = places.home / ACCEPTED
    accepted = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if spec.name in accepted:
        return
    if not accept:
        raise LicenceNotAccepted(spec, wanted)
    with storage.writing(places.home):
        places.home.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in [*accepted, spec.name]), encoding="utf-8")


def _orders(places: Places, known: MirrorSet, mirror: str) -> tuple[dict[str, tuple[Source, ...]], Mapping[str, str]]:
    settings = pip_client.settings(Path(sys.executable))
    wanted = samples.wanted((), settings["index-url"])
    orders = ordering.orders(known, mirror, ["hub"], home=places.home, wanted=wanted, settings=settings)
    console.line("mirrors", f"hub {', '.join(source.mirror for source in orders['hub'])}")
    return orders, settings


def _artifacts(parts: Sequence[LockedPart]) -> list[Artifact]:
    return [
        Artifact("hub", file.path, (file.sha256,), file.size, part.repository, part.revision, file.path)
        for part in parts
        for file in part.files
    ]


def _files(spec: ModelSpec, parts: Sequence[LockedPart]) -> dict[str, str]:
    """What is in the model's folder: names and digests."""
    assert spec.weights
    return {
        part.place(file.path): file.sha256
        for part, locked in zip(spec.weights.parts, parts, strict=True)
        for file in locked.files
    }


def _in_place(places: Places, spec: ModelSpec, parts: Sequence[LockedPart]) -> bool:
    store = Store(places.store)
    return all(store.has(sha256) for sha256 in _files(spec, parts).values())


def _link(places: Places, spec: ModelSpec, parts: Sequence[LockedPart]) -> None:
    files, folder = _files(spec, parts), places.models / spec.name
    view = Store(places.store).view(folder, files)
    how = tr("no copy (hard links)") if not view.copied.files else tr("copied, because it is on another disk")
    size = console.size(sum(part.size_bytes for part in parts))
    console.line("weights", tr("{folder}   {count} files, {size}, every hash checked, {how}", folder=folder,
                               count=len(files), size=size, how=how))  # fmt: skip


def _warn_of_disk(places: Places, size_bytes: int) -> None:
    """Say what is wrong with the store's disk, before gigabytes go there. Raises `StoreFull`."""
    storage.check_room(places.store, size_bytes)
    fix = tr("set JINGXIANG_STORE to a folder on a fast local disk")
    if caution := disk.caution(disk.filesystem(places.store)):
        console.line("disk", f"{caution}: {fix}")
    if size_bytes < LARGE_BYTES:
        return
    slowest = disk.remembered(places.home, places.store)
    if slowest < disk.SLOW_MB_S:
        console.line("disk", tr("{speed:.0f} MB/s: {fix}", speed=slowest, fix=fix))


def _list(places: Places, specs: Mapping[str, ModelSpec], *, as_json: bool) -> None:
    locks = weights.load(places.root / weights.LOCK)
    states = [_state(places, spec, locks.get(spec.name)) for spec in specs.values()]
    if as_json:
        console.data_json([asdict(each) for each in states])
        return
    said = {
        READY: tr("here"), PARTIAL: tr("partly here"), ABSENT: tr("not here"), STALE: tr("to be locked again"),
        UNLOCKED: tr("not locked yet"), MADE: tr("made here"),
    }  # fmt: skip
    rows = [(tr("model"), tr("size"), tr("state"), tr("licence"), "")]
    for each in states:
        use = "" if each.state == MADE or each.commercial else tr("no commercial use, or only on conditions")
        size = console.size(each.size_bytes) if each.size_bytes is not None else "-"
        rows.append((each.name, size, said[each.state], each.licence, use))
    console.table(rows)


def _state(places: Places, spec: ModelSpec, locked: Sequence[LockedPart] | None) -> State:
    if spec.weights is None:
        return State(spec.name, spec.title, MADE, None, "", True, False)
    licence, gated = spec.weights.licence, spec.weights.gated
    if locked is None:
        return State(spec.name, spec.title, UNLOCKED, None, licence.name, licence.commercial, gated)
    try:
        parts = weights.fitting(spec.name, spec.weights, locked)
    except weights.OtherFiles:  # told by whoever wants to use it
        return State(spec.name, spec.title, STALE, None, licence.name, licence.commercial, gated)
    here = [Store(places.store).has(sha256) for sha256 in _files(spec, parts).values()]
    state = READY if all(here) else PARTIAL if any(here) else ABSENT
    size = sum(part.size_bytes for part in parts)
    return State(spec.name, spec.title, state, size, licence.name, licence.commercial, gated)
