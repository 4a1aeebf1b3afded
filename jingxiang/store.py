"""The store: every file that crosses the network, once, under its SHA-256.

sha256/ab/abcdef…        a blob: whole, checked, read-only
incoming/abcdef…         what has come so far of one that is being fetched, kept for the next try
incoming/abcdef….journal what the fetch engine notes about it
incoming/abcdef….lock    there while a process works on it
resolved/…               which files the locks of Python packages mean on this machine (`wheels`)
quarantine/abcdef…       a blob whose bytes had changed on the disk: nothing uses it, somebody may want to look at it
derived/…                what was made of blobs and can be made again: wheels unpacked (by uv) and compiled (`bytecode`)
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jingxiang import storage, views
from jingxiang.digest import sha256_file
from jingxiang.errors import JingxiangError
from jingxiang.file_lock import held
from jingxiang.language import tr
from jingxiang.storage import NOTHING, Tally

DIGEST = re.compile("[0-9a-f]{64}")
INCOMING = re.compile(rf"({DIGEST.pattern})(\.journal|\.lock)?")
OLD_PARTIAL_S = 24 * 3600.0  # older than any interruption that somebody comes back to the same day


class NotADigest(JingxiangError):
    """A blob asked for by something else than 64 lower-case hex digits."""

    def __init__(self, text: str) -> None:
        super().__init__(tr("{text}: not a SHA-256 of 64 lower-case hex digits", text=repr(text)))


class Damaged(JingxiangError):
    """Bytes that are not those that were asked for; nothing uses them."""

    def __init__(self, expected: str, actual: str) -> None:
        self.expected, self.actual = expected, actual
        super().__init__(
            tr("what came as sha256:{expected} is sha256:{actual}; it is not used", expected=expected, actual=actual)
        )


class Missing(JingxiangError):
    """Blobs that a view needs and that nobody has fetched (or that were pruned just now)."""

    def __init__(self, digests: Collection[str]) -> None:
        self.digests = tuple(sorted(digests))
        super().__init__(
            tr("{count} files are not in the store, sha256:{first} first", count=len(digests), first=self.digests[0])
        )


@dataclass(frozen=True)
class Blob:
    """One file of the store. `linked`: it is also in a view, by another name of the same file."""

    sha256: str
    size_bytes: int
    linked: bool

    @property
    def tally(self) -> Tally:
        return Tally(1, self.size_bytes)


@dataclass(frozen=True)
class Sizes:
    """What the store holds. `linked` counts those of the blobs that are in views too; `partial` what is half here;
    `derived` what was made of blobs, whether or not environments share it; `quarantine` what was damaged."""

    blobs: Tally
    linked: Tally
    partial: Tally
    derived: Tally = NOTHING
    quarantine: Tally = NOTHING


@dataclass(frozen=True)
class Verified:
    """What was read, and the digests of those that were not what they are called; these are in quarantine now."""

    checked: Tally
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Pruned:
    """What was removed (the quarantine too), and what was not wanted but stayed: in a view, or being fetched."""

    removed: Tally
    partial: Tally
    stayed: Tally


@dataclass(frozen=True)
class Incoming:
    """A blob that is being fetched by us alone. The fetch engine writes `path` and whatever it needs to `journal`."""

    store: Store
    sha256: str

    @property
    def path(self) -> Path:
        """The bytes so far; not there before the first one. The next process goes on from them."""
        return self.store.incoming_folder / self.sha256

    @property
    def journal(self) -> Path:
        return self.store.incoming_folder / f"{self.sha256}.journal"

    @property
    def age_s(self) -> float:
        """Seconds since anything of it was last written; very many if nothing of it is there."""
        written = 0.0
        for path in (self.path, self.journal):
            with contextlib.suppress(FileNotFoundError):
                written = max(written, path.stat().st_mtime)
        return time.time() - written

    def commit(self, *, sha256: str | None = None, among: Collection[str] = ()) -> Path:
        """Check the whole file and make it a blob; raises `Damaged`, and forgets the bytes, if it is another one.

        `sha256` spares reading a large file again: the digest of exactly the bytes in `path`, computed while they were
        written (and, after a resume, read). It is believed. `among`: what the digest may be, where more than one file
        will do and it came under a name that stands for any of them.
        """
        actual = sha256 or sha256_file(self.path)
        if actual not in (among or (self.sha256,)):
            self.discard()
            raise Damaged(self.sha256, actual)
        with contextlib.nullcontext() if actual == self.sha256 else held(self.store._lock(actual)):
            self.store._take_in(self.path, actual)
        self.journal.unlink(missing_ok=True)
        return self.store.blob(actual)

    def discard(self) -> None:
        """Forget what has come so far."""
        for path in (self.journal, self.path):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Store:
    """A folder of blobs. Several processes, users and checkouts may use it at once, as far as its modes let them."""

    root: Path

    @property
    def incoming_folder(self) -> Path:
        return self.root / "incoming"

    @property
    def blob_folder(self) -> Path:
        return self.root / "sha256"

    @property
    def quarantine_folder(self) -> Path:
        return self.root / "quarantine"

    @property
    def derived(self) -> Path:
        return self.root / "derived"

    @property
    def is_ours(self) -> bool:
        """Whether we may write in it: a store that others share with us may be read only."""
        there = next(each for each in (self.root, *self.root.parents) if each.exists())
        return os.access(there, os.W_OK)

    def blob(self, sha256: str) -> Path:
        """Where a blob is, or would be. Raises `NotADigest`."""
        if not DIGEST.fullmatch(sha256):
            raise NotADigest(sha256)
        return self.blob_folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.blob(sha256).is_file()

    @contextlib.contextmanager
    def incoming(self, sha256: str) -> Iterator[Incoming]:
        """Have a blob to ourselves until the end. Who had to wait for another process asks `has` first."""
        with self._incoming(sha256, wait=True) as file:
            assert file is not None
            yield file

    @contextlib.contextmanager
    def incoming_if_free(self, sha256: str) -> Iterator[Incoming | None]:
        """The same, but None at once while another process (or thread) has it."""
        with self._incoming(sha256, wait=False) as file:
            yield file

    @contextlib.contextmanager
    def _incoming(self, sha256: str, *, wait: bool) -> Iterator[Incoming | None]:
        blob, file = self.blob(sha256), Incoming(self, sha256)
        with contextlib.ExitStack() as stack:
            with storage.writing(self.root):
                self.incoming_folder.mkdir(parents=True, exist_ok=True)
                ours = stack.enter_context(held(self._lock(sha256), wait=wait))
                if not ours:
                    pass
                elif blob.exists():  # by a process that was killed just after it had put the blob in place
                    file.discard()
                elif file.path.exists():  # by one that was killed just before that
                    file.path.chmod(file.path.stat().st_mode | 0o200)
            yield file if ours else None

    def add(self, path: Path) -> str:
        """Take in a copy of a local file, hashed on the way; returns its digest."""
        # Under a name that nobody else has, until its own is known.
        size, name = path.stat().st_size, secrets.token_hex(32)
        with path.open("rb") as source, storage.writing(self.root, size), self.incoming(name) as file:
            try:
                with file.path.open("x+b") as target:
                    digest = storage.copy(source, target)
                with held(self._lock(digest)):
                    self._take_in(file.path, digest)
            finally:
                file.discard()
        return digest

    def view(self, target: Path, files: Mapping[str, str]) -> views.View:
        """Make a folder of names from blobs: relative POSIX path -> digest. See `views.build`. Raises `Missing`."""
        sources = {name: self.blob(sha256) for name, sha256 in files.items()}
        if missing := {path.name for path in sources.values() if not path.is_file()}:
            raise Missing(missing)
        return views.build(target, sources)

    def blobs(self) -> Iterator[Blob]:
        """Every blob. What others add or remove meanwhile may be in it or not."""
        for path in self.blob_folder.glob("[0-9a-f][0-9a-f]/*"):
            if DIGEST.fullmatch(path.name) and path.name.startswith(path.parent.name):
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    yield Blob(path.name, found.st_size, found.st_nlink > 1)

    def partial_bytes(self, sha256: str) -> int:
        """The room on the disk that what has come of a blob takes."""
        try:
            return Incoming(self, sha256).path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def sizes(self) -> Sizes:
        blobs = linked = partial = NOTHING
        for blob in self.blobs():
            blobs += blob.tally
            linked += blob.tally if blob.linked else NOTHING
        for sha256 in self._incoming_digests():
            partial += _tally(Incoming(self, sha256).path)
        return Sizes(blobs, linked, partial, storage.below(self.derived), storage.below(self.quarantine_folder))

    def is_sound(self, sha256: str) -> bool:
        """Whether a blob is there, and is what it is called: it is read."""
        try:
            return sha256_file(self.blob(sha256)) == sha256
        except FileNotFoundError:
            return False

    def check(self, sha256: str) -> None:
        """Read a blob; raises `Missing`, or `Damaged` if it is not what it is called."""
        try:
            actual = sha256_file(self.blob(sha256))
        except FileNotFoundError:
            raise Missing([sha256]) from None
        if actual != sha256:
            self.quarantine(sha256)
            raise Damaged(sha256, actual)

    def quarantine(self, sha256: str, path: Path | None = None) -> None:
        """Put a damaged blob, or the file in a view that should be it, where nothing uses it; `prune` removes it."""
        with storage.writing(self.root):
            self.quarantine_folder.mkdir(parents=True, exist_ok=True)
            target = self.quarantine_folder / sha256
            target.unlink(missing_ok=True)  # renaming one name of a file to another of its names does nothing
            with contextlib.suppress(FileNotFoundError):
                shutil.move(path or self.blob(sha256), target)

    def verify(self) -> Verified:
        """Read every blob and put those into quarantine that are damaged, so that they are fetched again.

        The file itself stays damaged in the views that it is linked into; making these again, after the fetch, puts
        them right.
        """
        checked, damaged = NOTHING, []
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for blob, actual in pool.map(self._read, self.blobs()):
                checked += blob.tally if actual else NOTHING
                if actual not in ("", blob.sha256):
                    damaged.append(blob.sha256)
        for sha256 in damaged:
            self.quarantine(sha256)
        return Verified(checked, tuple(sorted(damaged)))

    def prune(self, keep: Collection[str]) -> Pruned:
        """Remove the blobs that are neither in `keep` nor linked into a view, damaged ones, and partial files of
        yesterday.

        A process of another checkout that has fetched a blob and not yet linked it may lose it: its view then says
        `Missing`, and the next fetch gets it again.
        """
        keep = set(keep)
        removed, stayed = storage.below(self.quarantine_folder), NOTHING
        with storage.writing(self.root), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.quarantine_folder)
        for blob in self.blobs():
            if blob.sha256 not in keep:
                if self._removed(blob):
                    removed += blob.tally
                else:
                    stayed += blob.tally
        return Pruned(removed, self.forget(OLD_PARTIAL_S), stayed)

    def forget(self, age_s: float) -> Tally:
        """Remove partial files that nobody works on or has written to for so long, with their journals and locks.

        Returns how many partial files, and their bytes.
        """
        gone = NOTHING
        for sha256 in self._incoming_digests():
            file = Incoming(self, sha256)
            if file.age_s < age_s:
                continue
            with storage.writing(self.root), held(self._lock(sha256), wait=False) as ours:
                if ours and file.age_s >= age_s:  # still: somebody may have gone on with it meanwhile
                    gone += _tally(file.path)
                    file.discard()
        return gone

    def _take_in(self, path: Path, sha256: str) -> None:
        """Make a checked file the blob, in one step that a power cut cannot halve. Its lock is ours."""
        blob = self.blob(sha256)
        with storage.writing(self.root):
            if blob.exists():
                path.unlink()
                return
            # The time of its arrival, with nanoseconds from the digest: so a view can tell two blobs of one size that
            # came at the same moment apart without reading them.
            arrived = int(time.time()) * 10**9 + int(sha256, 16) % 10**9
            os.utime(path, ns=(arrived, arrived))
            path.chmod(storage.READ_ONLY)
            storage.sync(path)
            blob.parent.mkdir(parents=True, exist_ok=True)
            path.replace(blob)
            for folder in (blob.parent, self.blob_folder, self.root):
                storage.sync(folder)

    def _removed(self, blob: Blob) -> bool:
        """Remove a blob unless somebody works on it or has linked it."""
        path = self.blob(blob.sha256)
        with storage.writing(self.root):
            self.incoming_folder.mkdir(exist_ok=True)
            with held(self._lock(blob.sha256), wait=False) as ours, contextlib.suppress(FileNotFoundError):
                if ours and path.stat().st_nlink == 1:
                    path.unlink()
                    return True
        return False

    def _read(self, blob: Blob) -> tuple[Blob, str]:
        """A blob with its true digest; none if it was removed meanwhile."""
        try:
            return blob, sha256_file(self.blob(blob.sha256))
        except FileNotFoundError:
            return blob, ""

    def _lock(self, sha256: str) -> Path:
        return self.incoming_folder / f"{sha256}.lock"

    def _incoming_digests(self) -> set[str]:
        names = (INCOMING.fullmatch(path.name) for path in self.incoming_folder.glob("*"))
        return {match[1] for match in names if match}


def _tally(path: Path) -> Tally:
    try:
        return Tally(1, path.stat().st_size)
    except FileNotFoundError:
        return NOTHING
