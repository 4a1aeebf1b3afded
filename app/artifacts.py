"""Where compiled artifacts are kept and found. Imports no torch. What one is: `jingxiang.compiled`.

A shelf is one folder that can be written, as a rule, and others that are only read, such as that of an image. Whoever
loads an artifact runs what is in it, so one that is damaged, or that somebody else could have put there, is not used:
that is said in a line, and costs speed only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from app.texts import tr
from jingxiang import compiled, console, file_lock, folder_lock
from jingxiang.compiled import MANIFEST, Artifact, Damaged, Key
from jingxiang.errors import JingxiangError

__all__ = ["Artifact", "Damaged", "Key", "Shelf", "Unusable"]

DRAFT = "draft-"  # begins the name of what is being made
ADOPTING = ".adopting"  # ends the name of what a process holds while it loads an artifact


class Unusable(JingxiangError):
    """torch does not take an artifact that is whole."""

    def __init__(self, key: Key, reason: object) -> None:
        super().__init__(tr("what was compiled for {shape} cannot be loaded: {reason}", shape=key.shape, reason=reason))


class Shelf:
    """Artifacts by their keys. New ones go to `folder`; `others` are only read."""

    def __init__(self, folder: Path, *others: Path) -> None:
        self.folder = folder
        self._folders = tuple(dict.fromkeys((folder, *others)))
        self._said: dict[Path, object] = {}  # what was refused, and how it looked then

    @property
    def is_writable(self) -> bool:
        """Whether new ones can be kept."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError:
            return False
        return True

    def holds(self, key: Key) -> bool:
        """Whether there is something under its name; it may not be usable, see `find`."""
        return any(compiled.is_there(folder / key.digest) for folder in self._folders)

    def find(self, key: Key) -> Artifact | None:
        """The artifact, every file of it checked; None if there is none that can be used. Why one that is there cannot
        is said once.
        """
        places = [folder / key.digest for folder in self._folders if compiled.is_there(folder / key.digest)]
        if places and self.is_aside(key):
            self._say(places[0], tr("{shape}: what was compiled is left aside, because a worker could not use it; "
                                    "python3 tasks.py warm makes it anew", shape=key.shape))  # fmt: skip
            return None
        for place in places:
            if self._said.get(place) == _look(place):
                continue
            try:
                _check_owner(place)
                return compiled.read(place)
            except Damaged as error:
                self._say(place, error.message)
        return None

    def all(self) -> list[Artifact]:
        """All that are there, by the names and sizes of their files, and are not left aside; of one key only the one
        that is found.
        """
        found: dict[Key, Artifact] = {}
        for place in [place for folder in self._folders for place in compiled.candidates(folder)]:
            with contextlib.suppress(Damaged):
                _check_owner(place)
                artifact = compiled.read(place, whole=False)
                if not self.is_aside(artifact.key):
                    found.setdefault(artifact.key, artifact)
        return list(found.values())

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """An empty folder to make an artifact in, on the disk that it goes to; it is gone afterwards, also if the
        process is killed: then the next draft sees to it. Raises `OSError`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            with folder_lock.locked(self.folder):
                self._sweep()
                folder = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.folder))
                held.enter_context(file_lock.held(_lock_of(folder)))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            parts = folder / "parts"  # one that others may read, unlike the folder itself
            parts.mkdir()
            yield parts

    def put(self, key: Key, folder: Path) -> Artifact:
        """Keep what is in the folder, which is on the same disk, such as a draft: it is there as a whole, or not at
        all, and takes the place of what was there. Raises `OSError`.
        """
        (folder / MANIFEST).write_bytes(compiled.manifest(key, folder))
        place = self.folder / key.digest
        with folder_lock.locked(self.folder):
            self._clear(key)
            folder.rename(place)
        return compiled.read(place, whole=False)

    def remove(self, key: Key) -> None:
        """Nothing happens if it is not in our folder. Raises `OSError`."""
        if self.folder.is_dir():
            with folder_lock.locked(self.folder):
                self._clear(key)

    @contextlib.contextmanager
    def making(self, key: Key) -> Iterator[None]:
        """Wait until no other process makes this one. Raises `OSError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock.held(self.folder / f".{key.digest}.making"):
            yield

    @contextlib.contextmanager
    def adopting(self, key: Key) -> Iterator[None]:
        """Load it meanwhile. If the process dies of that, or an error comes of it, it is left aside from then on.

        Where nothing can be written, nothing is known of it later.
        """
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                with folder_lock.locked(self.folder):  # else it could be found before it is held
                    mark = self.folder / f".{key.digest}.{secrets.token_hex(4)}{ADOPTING}"
                    held.enter_context(file_lock.held(mark))
            try:
                yield
            except Exception:
                with contextlib.suppress(OSError):
                    self._aside(key).touch()
                raise

    def is_aside(self, key: Key) -> bool:
        """Whether a process could not use it, or died of it."""
        with contextlib.suppress(OSError), folder_lock.locked(self.folder):
            if self._was_left(key):
                self._aside(key).touch()
        return compiled.is_aside(self.folder, key.digest)

    def _was_left(self, key: Key) -> bool:
        """Whether a process died while it loaded it: nobody holds its mark any more, which is then forgotten. The
        folder must be locked.
        """
        dead = 0
        for mark in self.folder.glob(f".{key.digest}.*{ADOPTING}"):
            with file_lock.held(mark, wait=False) as is_left:
                dead += is_left
        return dead > 0

    def _aside(self, key: Key) -> Path:
        return self.folder / f".{key.digest}{compiled.ASIDE}"

    def _clear(self, key: Key) -> None:
        place = self.folder / key.digest
        if place.exists():
            away = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.folder))
            place.rename(away / key.digest)  # at once: nobody finds half of it
            shutil.rmtree(away, ignore_errors=True)
        self._was_left(key)
        self._aside(key).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove the drafts of processes that were killed. The folder must be locked."""
        for folder in self.folder.glob(f"{DRAFT}*"):
            with file_lock.held(_lock_of(folder), wait=False) as is_left:
                if is_left:
                    shutil.rmtree(folder, ignore_errors=True)

    def _say(self, place: Path, text: str) -> None:
        look = _look(place)
        if self._said.get(place) != look:
            self._said[place] = look
            console.warn(text)


def _lock_of(draft: Path) -> Path:
    return draft.with_name(f".{draft.name}.lock")


def _look(place: Path) -> object:
    """Another one when something else has come in its place."""
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _check_owner(place: Path) -> None:
    """What somebody else could have written is not run. Raises `Damaged`."""
    try:
        for each in (place, *place.rglob("*")):
            found = each.stat()
            if found.st_uid not in (0, os.geteuid()):
                raise Damaged(place, tr("it belongs to another user ({uid})", uid=found.st_uid))
            if found.st_mode & stat.S_IWOTH:
                raise Damaged(place, tr("everybody may write to it"))
    except OSError as error:
        raise Damaged(place, error.strerror or str(error)) from error
