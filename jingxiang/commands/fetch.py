"""`fetch`: the weights of models, locked by their hashes, from whichever hub works into the store, and a folder of
links to them that the pipelines load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jingxiang import console, disk, inventory, models, storage, weights
from jingxiang.commands import model_locks
from jingxiang.commands.model_locks import NoWeights
from jingxiang.commands.sources import Sources
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.report import Unavailable
from jingxiang.fetch.session import Session
from jingxiang.hubs import huggingface
from jingxiang.hubs.huggingface import Refused
from jingxiang.inventory import ADDED, CHANGED, MISSING
from jingxiang.language import tr
from jingxiang.models import Catalog, ModelSpec
from jingxiang.places import Places
from jingxiang.progress import Bar
from jingxiang.store import Store
from jingxiang.weights import LockedFile, LockedPart, ModelLock, Weights

LARGE_BYTES = 1_000_000_000  # from here on the disk's speed is worth a second
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
    """Nobody has seen yet all of what the model is made of."""

    def __init__(self, name: str) -> None:
        super().__init__(tr("{name}: has not been fetched yet", name=name), hints=(f"python3 tasks.py fetch {name}",))


class NoModel(JingxiangError):
    """The app cannot start, because the weights of its model are not here and no hub has them for us now."""

    def __init__(self, reason: Unavailable, other: ModelSpec) -> None:
        hint = tr("try the app with a model that needs no weights: --model {name}", name=other.name)
        super().__init__(reason.message, hints=(*reason.hints, hint))


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
    catalog = models.load(places.root / models.FILE)
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


def ready(places: Places, catalog: Catalog, spec: ModelSpec, *, mirror: str) -> None:
    """Have the weights that the app is about to load, if it loads any. Raises `NoModel`."""
    if spec.weights:
        try:
            get(places, spec, mirror=mirror)
        except Unavailable as error:
            raise NoModel(error, catalog.without_gpu) from error


def get(places: Places, spec: ModelSpec, *, mirror: str, dry_run: bool = False, accept: bool = False) -> Path:
    """The folder of a model's weights, made if it is not there."""
    wanted, folder = spec.weights, places.models / spec.name
    if wanted is None:
        raise NoWeights(spec.name)
    lock = weights.load(places.root / weights.LOCK).get(spec.name)
    if lock:
        weights.check_fits(spec.name, wanted, lock)
        if not not_here(places, lock):
            _link(places, spec, lock)
            return folder
    _allowed(places, spec, wanted, accept=accept, dry_run=dry_run)
    if wanted.gated and not huggingface.token():
        raise Refused(wanted.parts[0].repository, token=False)
    found = model_locks.hubs(places, mirror)
    known = lock or model_locks.asked(found, spec.name, wanted)
    if not dry_run:
        if not known.is_complete:
            known = model_locks.completed(found, spec.name, wanted, known)
        if known != lock:
            model_locks.write(places, spec.name, known)
    missing = not_here(places, known)
    text = tr("{model}: {count} of {all} files to fetch, {size}", model=spec.name, count=len(missing),
              all=len(contents(spec, known)), size=console.size(sum(each.size for _, each in missing)))  # fmt: skip
    console.line("plan", text)
    if dry_run:
        return folder
    if missing:
        _fetch(places, found, missing, gated=wanted.gated)
    _link(places, spec, known)
    return folder


def _fetch(places: Places, found: Sources, missing: Sequence[tuple[LockedPart, LockedFile]], *, gated: bool) -> None:
    _warn_of_disk(places, sum(each.size for _, each in missing))
    wanted = [
        Artifact("hub", each.path, (each.sha256,), each.size, part.repository, part.revision, each.path)
        for part, each in missing
    ]
    try:
        with (
            Session(Store(places.store), {"hub": found.order}, found.settings, {"hub": found.token}) as session,
            Bar() as bar,
        ):
            report = session.fetch(wanted, bar)
    except Unavailable as error:
        raise (model_locks.refusal(found, wanted[0].group, error) if gated else error) from error
    for number, line in enumerate(report.lines()):
        console.line("fetch", line) if number == 0 else console.more(line)


def locked(places: Places, name: str, *, mirror: str) -> ModelLock:
    """What a model is made of, all of it in the store."""
    spec = models.load(places.root / models.FILE).model(name)
    get(places, spec, mirror=mirror)
    return weights.load(places.root / weights.LOCK)[name]


def verify(places: Places, name: str, *, as_json: bool) -> None:
    """Read every file of a model again, in its folder and in the store; what is not as locked is listed, and put into
    the store's quarantine, so that nothing loads it.

    Raises `DamagedWeights`, `NotFetched`.
    """
    spec = models.load(places.root / models.FILE).model(name)
    if spec.weights is None:
        raise NoWeights(name)
    lock = weights.load(places.root / weights.LOCK).get(name)
    if lock is None or not lock.is_complete:
        raise NotFetched(name)
    weights.check_fits(name, spec.weights, lock)
    folder, store = places.models / name, Store(places.store)
    files = contents(spec, lock)
    found = inventory.looks(folder) if folder.is_dir() else {}
    wrong = dict.fromkeys(sorted(found.keys() - files), ADDED)
    for path, sha256 in files.items():
        linked = path in found and store.has(sha256) and store.blob(sha256).samefile(folder / path)
        if not (found[path] == sha256 if linked else store.is_sound(sha256)):  # one file is read once
            store.quarantine(sha256)
        if path not in found:
            wrong[path] = MISSING
        elif found[path] != sha256:
            wrong[path] = CHANGED
            store.quarantine(sha256, folder / path)
    if as_json:
        console.data_json({"model": name, "files": len(files), "differences": wrong})
    else:
        for path, kind in wrong.items():
            console.data(f"{kind:8} {path}")
    if wrong:
        raise DamagedWeights(name, len(wrong))
    console.line("verify", tr("{count} files as locked", count=f"{len(files):,}"))


def _allowed(places: Places, spec: ModelSpec, wanted: Weights, *, accept: bool, dry_run: bool) -> None:
    """Show the licence; raise `LicenceNotAccepted` where its conditions have to be accepted before anything comes."""
    licence = wanted.licence
    use = tr("commercial use allowed") if licence.commercial else tr("no commercial use, or only on conditions")
    console.line("licence", f"{licence.name}, {use}: {licence.url}")
    if licence.free or dry_run:
        return
    accepted = weights.accepted(places.home)
    if spec.name in accepted:
        return
    if not accept:
        raise LicenceNotAccepted(spec, wanted)
    with storage.writing(places.home):
        places.home.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{name}\n" for name in [*accepted, spec.name])
        (places.home / weights.ACCEPTED).write_text(text, encoding="utf-8")


def contents(spec: ModelSpec, lock: ModelLock) -> dict[str, str]:
    """What is in the model's folder: names and digests."""
    assert spec.weights
    return {
        part.place(file.path): file.sha256
        for part, locked in zip(spec.weights.parts, lock.parts, strict=True)
        for file in locked.files
    }


def not_here(places: Places, lock: ModelLock) -> list[tuple[LockedPart, LockedFile]]:
    """What is not in the store; nothing can be said of files that are not known by SHA-256 yet."""
    store = Store(places.store)
    files = ((part, file) for part in lock.parts for file in part.files)
    return [(part, file) for part, file in files if not (file.sha256 and store.has(file.sha256))]


def _link(places: Places, spec: ModelSpec, lock: ModelLock) -> None:
    files, folder = contents(spec, lock), places.models / spec.name
    view = Store(places.store).view(folder, files)
    how = tr("no copy (hard links)") if not view.copied.files else tr("copied, because it is on another disk")
    size = console.size(lock.size_bytes)
    console.line("weights", tr("{folder}   {count} files, {size}, every hash checked, {how}", folder=folder,
                               count=len(files), size=size, how=how))  # fmt: skip


def _warn_of_disk(places: Places, size_bytes: int) -> None:
    """Say what is wrong with the store's disk, before gigabytes go there. Raises `StoreFull`, `StoreClosed`."""
    fix = tr("set JINGXIANG_STORE to a folder on a fast local disk")
    if caution := disk.caution(disk.filesystem(places.store)):
        console.line("disk", f"{caution}: {fix}")
    if size_bytes < LARGE_BYTES:
        return
    with storage.writing(places.store, disk.SAMPLE_BYTES):
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


def _state(places: Places, spec: ModelSpec, lock: ModelLock | None) -> State:
    if spec.weights is None:
        return State(spec.name, spec.title, MADE, None, "", True, False)
    licence, gated = spec.weights.licence, spec.weights.gated
    if lock is None:
        return State(spec.name, spec.title, UNLOCKED, None, licence.name, licence.commercial, gated)
    try:
        weights.check_fits(spec.name, spec.weights, lock)
    except (weights.StaleLock, weights.Pickle):  # told by whoever wants to use it
        return State(spec.name, spec.title, STALE, None, licence.name, licence.commercial, gated)
    missing = len(not_here(places, lock))
    state = READY if not missing else ABSENT if missing == len(contents(spec, lock)) else PARTIAL
    return State(spec.name, spec.title, state, lock.size_bytes, licence.name, licence.commercial, gated)
