"""Where compiled artifacts are kept and found. Imports no torch. What one is: `jingxiang.compiled`.

A shelf is one folder that can be written, as a rule, and others that are only read, such as that of an image. Whoever
loads an artifact runs what is in it, so one that is damaged, or that somebody else could have put there, is not used:
that is said in a line, and costs speed only. So is one that processes die of, or that torch does not take: it is left
aside until it is made anew.
"""

from __future__ import annotations

import atexit
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
from jingxiang.compiled import MANIFEST, SHAPE, Artifact, Damaged, Key
from jingxiang.errors import JingxiangError
from jingxiang.models import ModelSpec

__all__ = ["Artifact", "Damaged", "Hindered", "Key", "Shelf", "Unusable", "forget_marks", "is_of_preset"]

DRAFT, SCRATCH = "draft-", "scratch-"  # begin the names of what is being made, and of what one process runs things in
ADOPTING = ".adopting"  # ends the name of the mark that a process holds while it loads an artifact
DEATHS = 2  # in a row while it was loaded: one may have had any reason, such as the end of a container
OTHERS = stat.S_IWGRP | stat.S_IWOTH  # whoever else may write
_marks: set[Path] = set()  # that this process holds


class Unusable(JingxiangError):
    """torch does not take an artifact that is whole."""

    def __init__(self, key: Key, reason: object) -> None:
        super().__init__(tr("what was compiled for {shape} cannot be loaded: {reason}", shape=key.shape, reason=reason))


class Hindered(JingxiangError):
    """An artifact could not be loaded for a reason that is not its own, such as too little memory."""

    def __init__(self, key: Key, reason: object) -> None:
        text = tr("what was compiled for {shape} cannot be loaded here now: {reason}", shape=key.shape, reason=reason)
        super().__init__(text)


def is_of_preset(spec: ModelSpec, key: Key) -> bool:
    """Whether the size is that of a preset of the model, and not one of a user's own."""
    sizes = {tuple(getattr(preset, each) for each in SHAPE) for preset in spec.presets.values()}
    return tuple(getattr(key, each) for each in SHAPE) in sizes


def forget_marks() -> None:
    """Called by whoever ends this process at once, without being asked why: that is not the fault of what it loads."""
    for mark in list(_marks):
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)


class Shelf:
    """Artifacts by their keys. New ones go to `folder`; `others` are only read."""

    def __init__(self, folder: Path, *others: Path) -> None:
        self.folder = folder
        self._folders = tuple(dict.fromkeys((folder, *others)))
        self._said: dict[Path, object] = {}  # what was refused, and how it looked then
        self._scratch: Path | None = None

    @property
    def is_writable(self) -> bool:
        """Whether new ones can be kept."""
        try:
            self._prepare()
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError:
            return False
        return True

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
        for artifact in [each for folder in self._folders for each in _on(folder)]:
            if not self.is_aside(artifact.key):
                found.setdefault(artifact.key, artifact)
        return list(found.values())

    def own(self) -> list[Artifact]:
        """What our own folder holds, also what is left aside; the newest first. Raises `OSError`."""
        return sorted(_on(self.folder), key=lambda each: (each.folder / MANIFEST).stat().st_mtime_ns, reverse=True)

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """An empty folder to make an artifact in, on the disk that it goes to; it is gone afterwards, also if the
        process is killed: then the next draft sees to it. Raises `OSError`.
        """
        with self._temporary(DRAFT) as folder:
            parts = folder / "parts"  # one that others may read, unlike the folder itself
            parts.mkdir()
            yield parts

    def scratch(self) -> Path:
        """A folder for this process alone, in which it may run things; it goes with the process, or, if that is killed,
        with the next one or draft. Where nothing can be written it is among other temporary ones. Raises `OSError`.
        """
        if self._scratch is None:
            held = contextlib.ExitStack()
            try:
                self._scratch = held.enter_context(self._temporary(SCRATCH))
            except OSError:
                self._scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="jingxiang-compiled-")))
            atexit.register(held.close)
        return self._scratch

    @contextlib.contextmanager
    def _temporary(self, prefix: str) -> Iterator[Path]:
        self._prepare()
        with contextlib.ExitStack() as held:
            with folder_lock.locked(self.folder):
                self._sweep()
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
                held.enter_context(file_lock.held(_lock_of(folder)))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder

    def put(self, key: Key, folder: Path) -> Artifact:
        """Keep what is in the folder, which is on the same disk, such as a draft: it is there as a whole, or not at
        all, and takes the place of what was there. Raises `OSError`.
        """
        (folder / MANIFEST).write_bytes(compiled.manifest(key, folder))
        for each in (folder, *folder.rglob("*")):  # whatever the umask is
            each.chmod(stat.S_IMODE(each.stat().st_mode) & ~OTHERS)
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
        self._prepare()
        with file_lock.held(self.folder / f".{key.digest}.making"):
            yield

    @contextlib.contextmanager
    def adopting(self, key: Key) -> Iterator[None]:
        """Load it meanwhile. If processes die of that, or an error other than `Hindered` comes of it, it is left aside
        from then on.

        Where nothing can be written, nothing is known of it later.
        """
        with self._marked(key):
            try:
                yield
            except Hindered:
                raise
            except Exception:
                with contextlib.suppress(OSError):
                    self._aside(key).touch()
                raise
            with contextlib.suppress(OSError), folder_lock.locked(self.folder):
                self._forget_deaths(key)

    @contextlib.contextmanager
    def _marked(self, key: Key) -> Iterator[None]:
        """Hold a mark that shows, should this process die meanwhile, of what. Whoever counts marks holds the folder, so
        that none of them comes or goes then.
        """
        mark = self.folder / f".{key.digest}.{secrets.token_hex(4)}{ADOPTING}"
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                self._prepare()
                with folder_lock.locked(self.folder):
                    held.enter_context(file_lock.held(mark))
            _marks.add(mark)
            try:
                yield
            finally:
                _marks.discard(mark)
                with contextlib.suppress(OSError), folder_lock.locked(self.folder):
                    held.close()

    def is_aside(self, key: Key) -> bool:
        """Whether a process could not use it, or several died of it."""
        with contextlib.suppress(OSError), folder_lock.locked(self.folder):
            if len(self._deaths(key)) >= DEATHS:
                self._aside(key).touch()
                self._forget_deaths(key)
        return compiled.is_aside(self.folder, key.digest)

    def _deaths(self, key: Key) -> list[Path]:
        """The marks of processes that died while they loaded it. The folder must be locked."""
        return [mark for mark in self.folder.glob(f".{key.digest}.*{ADOPTING}") if file_lock.is_left(mark)]

    def _forget_deaths(self, key: Key) -> None:
        for mark in self._deaths(key):
            mark.unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Raises `OSError`."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)

    def _aside(self, key: Key) -> Path:
        return self.folder / f".{key.digest}{compiled.ASIDE}"

    def _clear(self, key: Key) -> None:
        place = self.folder / key.digest
        if place.exists():
            away = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.folder))
            place.rename(away / key.digest)  # at once: nobody finds half of it
            shutil.rmtree(away, ignore_errors=True)
        self._forget_deaths(key)
        self._aside(key).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what belonged to processes that were killed. The folder must be locked."""
        for folder in (*self.folder.glob(f"{DRAFT}*"), *self.folder.glob(f"{SCRATCH}*")):
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


def _on(folder: Path) -> list[Artifact]:
    """What can be used in one folder of a shelf, by the names and sizes of its files."""
    found = []
    for place in compiled.candidates(folder):
        with contextlib.suppress(Damaged):
            _check_owner(place)
            found.append(compiled.read(place, whole=False))
    return found


def _check_owner(place: Path) -> None:
    """What somebody else could have written, or have put in its place, is not run. Raises `Damaged`.

    Root's is: so are the files of an image.
    """
    try:
        for each in (place.parent, place, *place.rglob("*")):
            found = each.stat()
            if found.st_uid not in (0, os.geteuid()):
                raise Damaged(place, tr("{name} belongs to another user ({uid})", name=each.name, uid=found.st_uid))
            if found.st_mode & OTHERS:
                raise Damaged(place, tr("others may write to {name}; chmod go-w", name=each.name))
    except OSError as error:
        raise Damaged(place, error.strerror or str(error)) from error
