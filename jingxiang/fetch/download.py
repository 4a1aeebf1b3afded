"""One artifact on its way into the store: its bytes, the journal that outlives a kill, and its hash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from jingxiang import storage
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.ranges import Claim, Range, RangePlan, Ranges
from jingxiang.storage import StoreFull
from jingxiang.store import Incoming, Store

# Less than the 8 MiB per connection that a killed run may lose.
JOURNAL_BYTES = 4 << 20
CLOSING_BYTES = 64 << 10  # what is noted of a connection that ends
HASH_BYTES = 1 << 20
RESTARTS = 3  # then sources that contradict each other are not listened to any more
FLUSH_BYTES = 8 << 20
HASH_STEP_BYTES = 4 << 20
# Who the bytes of an earlier run are from is not known any more.
EARLIER = ""


class Journal:
    """A file of lines `START END`: ranges that are in the partial file. The first line is the file's length.

    A line is written in one piece after its bytes; what a kill leaves of the last one does not count.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def started(self) -> bool:
        return self._descriptor is not None

    def read(self, present: int) -> tuple[int | None, list[Range]]:
        """The length and the ranges, of those the part that the partial file of `present` bytes can hold."""
        try:
            lines = self._path.read_text(encoding="ascii").split("\n")[:-1]
            size, *ranges = ([int(word) for word in line.split()] for line in lines)
        except (OSError, ValueError):
            return None, []
        if len(size) != 1 or any(len(each) != 2 or not 0 <= each[0] <= each[1] <= size[0] for each in ranges):
            return None, []
        return size[0], [(start, min(end, present)) for start, end in ranges]

    def start(self, size: int, ranges: Ranges) -> None:
        """Begin anew with what is there."""
        self.close()
        lines = [f"{size}\n", *(f"{start} {end}\n" for start, end in ranges)]
        self._path.write_text("".join(lines), encoding="ascii")
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)

    def add(self, start: int, end: int) -> None:
        assert self._descriptor is not None
        os.write(self._descriptor, f"{start} {end}\n".encode("ascii"))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Digest:
    """The SHA-256 of a file, computed behind those who write it, over the part that has no gap before it."""

    def __init__(self, descriptor: int) -> None:
        self.lock = threading.Lock()  # one thread at a time; the others have better things to do than to wait
        self._descriptor = descriptor
        self.reset()

    def reset(self) -> None:
        self._digest, self.position = hashlib.sha256(), 0

    def advance(self, end: int) -> None:
        block = memoryview(bytearray(min(HASH_BYTES, max(end - self.position, 0))))
        while self.position < end:
            count = os.preadv(self._descriptor, [block[: end - self.position]], self.position)
            if not count:
                raise EOFError("the partial file has become shorter")
            self._digest.update(block[:count])
            self.position += count

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class Download:
    """An artifact that this process alone fetches. Whose bytes are where is kept: on a wrong hash somebody is to blame.

    Calls that change `plan` belong under the engine's lock; `write` and `digest` do not need it.
    """

    def __init__(self, artifact: Artifact, store: Store, incoming: Incoming) -> None:
        self.artifact = artifact
        self.incoming = incoming
        self._store = store
        with storage.writing(store.root):
            self._descriptor = os.open(incoming.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._journal = Journal(incoming.journal)
        size, ranges = self._journal.read(os.fstat(self._descriptor).st_size)
        if artifact.size_bytes not in (None, size):
            size, ranges = artifact.size_bytes, []
        self.plan = RangePlan(size, ranges)
        self.owners: dict[str, Ranges] = {EARLIER: Ranges(ranges)}
        self.digest = Digest(self._descriptor)
        self.length_from = EARLIER
        self._noted: dict[Claim, int] = {}
        self._closed = False
        self._restarts = 0
        self._hash_asked = 0
        self._flushed, self._flushing = self.plan.here.total, False

    @property
    def size(self) -> int | None:
        return self.plan.size

    def settle(self, size: int, owner: str) -> None:
        """The length, which the lock does not know, as a source says it. Raises ValueError if more is there already."""
        self.plan.settle(size)
        self.length_from = owner

    def rests_on_others(self, owner: str) -> bool:
        """Whether what is believed of the file comes neither from the lock nor from this source, which may be right."""
        if self.artifact.size_bytes is not None or self.length_from == owner or self._restarts == RESTARTS:
            return False
        return self.plan.size is not None or self.plan.here.total > 0

    def restart(self) -> None:
        """Forget everything, the length too."""
        self.forget(*self.owners)
        self.length_from = EARLIER
        self._restarts += 1

    def write(self, claim: Claim, block: memoryview) -> None:
        """Put bytes that were granted to a claim where they belong. Raises `StoreFull`."""
        position = claim.written
        left_bytes = max((self.plan.size or 0) - self.plan.here.total, len(block))
        with storage.writing(self._store.root, left_bytes):
            while len(block):
                count = os.pwrite(self._descriptor, block, position)
                position, block = position + count, block[count:]

    def wrote(self, claim: Claim, owner: str) -> None:
        """The same is in the file now; it is noted for the next process every `JOURNAL_BYTES`."""
        self.owners.setdefault(owner, Ranges()).add(claim.written, claim.granted)
        self.plan.wrote(claim)
        self._note_if_due(claim, JOURNAL_BYTES)

    def release(self, claim: Claim) -> None:
        """A connection has ended."""
        self.plan.release(claim)
        if not self.plan.complete:
            self._note_if_due(claim, CLOSING_BYTES)
        self._noted.pop(claim, None)

    def forget(self, *owners: str) -> None:
        """Have their bytes fetched again."""
        with self.digest.lock:
            for owner in owners:
                self.plan.forget(self.owners.pop(owner, ()))
            self.digest.reset()
        self._hash_asked = 0
        if self.artifact.size_bytes is None and not self.plan.here.total:
            self.plan.size = None
        self._journal.close()
        self.incoming.journal.unlink(missing_ok=True)

    def owners_of_bytes(self) -> list[str]:
        """Those with bytes in the file, the one with the fewest first; `EARLIER` before all."""
        found = [owner for owner, ranges in self.owners.items() if ranges.total]
        return sorted(found, key=lambda owner: (owner != EARLIER, self.owners[owner].total))

    def hash_is_due(self) -> bool:
        """Whether enough has been written since this was last said to go on with the hash, in a thread of its own."""
        prefix = self.plan.here.prefix
        if prefix - self._hash_asked < HASH_STEP_BYTES:
            return False
        self._hash_asked = prefix
        return True

    def hash_available(self) -> None:
        """Go on with the hash as far as there is something to read, unless another thread does."""
        if self.digest.lock.acquire(blocking=False):
            try:
                if not self._closed:
                    self.digest.advance(self.plan.here.prefix)
            except EOFError:  # `hash_whole` will find out
                pass
            finally:
                self.digest.lock.release()

    def flush_is_due(self) -> bool:
        """Whether so much has been written that the disk should be hurried: what is left for the end is waited for."""
        if self._flushing or self.plan.here.total - self._flushed < FLUSH_BYTES:
            return False
        self._flushing, self._flushed = True, self.plan.here.total
        return True

    def flush(self) -> None:
        with contextlib.suppress(OSError):  # `commit` flushes again, and then it is said what is wrong
            if not self._closed:
                os.fdatasync(self._descriptor)
        self._flushing = False

    def hash_whole(self) -> str:
        """The digest of the complete file; empty if somebody has cut it short meanwhile."""
        with self.digest.lock:
            assert self.plan.size is not None
            try:
                self.digest.advance(self.plan.size)
            except EOFError:
                return ""
            return self.digest.hexdigest()

    def commit(self, sha256: str) -> Path:
        """Make the complete file, whose hash this is, visible in the store."""
        assert self.plan.size is not None
        os.ftruncate(self._descriptor, self.plan.size)  # a longer one of an earlier run
        return self.incoming.commit(sha256=sha256, among=self.artifact.hashes)

    def close(self) -> None:
        """Note what is here for the next process. Nobody may be writing."""
        with contextlib.suppress(StoreFull):  # then it has been said already
            for claim in self.plan.claims:
                self._note_if_due(claim, CLOSING_BYTES)
        self._journal.close()
        if not self.incoming.journal.exists():  # nothing that the next run could go on with
            self.incoming.discard()
        with self.digest.lock:
            self._closed = True
            os.close(self._descriptor)

    def _note_if_due(self, claim: Claim, due_bytes: int) -> None:
        """Write down what a claim has written since the last note; of a file of unknown length nothing can be used."""
        if self._closed or self.plan.size is None or claim.written - self._noted.get(claim, claim.start) < due_bytes:
            return
        with storage.writing(self._store.root):
            if self._journal.started:
                self._journal.add(self._noted.get(claim, claim.start), claim.written)
            else:
                self._journal.start(self.plan.size, self.plan.here)
        self._noted[claim] = claim.written


@contextlib.contextmanager
def opened(artifact: Artifact, store: Store) -> Iterator[Download | None]:
    """Have an artifact to ourselves; None if another process (or download) has it."""
    with ExitStack() as stack:
        incoming = stack.enter_context(store.incoming_if_free(artifact.key))
        if incoming is None:
            yield None
            return
        download = Download(artifact, store, incoming)
        stack.callback(download.close)
        yield download
