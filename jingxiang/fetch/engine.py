"""Many files from many mirrors at once: whom to ask for which bytes, and what to do when one of them fails.

One thread per connection, each of which asks for the next piece of work under one lock. The caller's thread watches:
it shows how far things are, and cuts off connections that bring too little.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from jingxiang import storage
from jingxiang.fetch import download, faults
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Body, Client, Flow
from jingxiang.fetch.download import EARLIER, Download
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.locations import Location, Locations
from jingxiang.fetch.ranges import Claim, RangePlan
from jingxiang.fetch.report import MirrorReport, Missed, Report, Unavailable
from jingxiang.fetch.standings import Standing, Standings
from jingxiang.language import tr
from jingxiang.store import Store

CONNECTIONS = 8
BLOCK_BYTES = 1 << 20
TICK_S = 0.1
# A connection that brings less than this is cut off, as long as there is somebody else to ask …
STALL_S, STALL_BYTES_PER_S = 5.0, 20_000
# … and one that brings nothing at all, even if there is not.
SILENCE_S = 10.0
# What a file waits before its next round through the mirrors, when all of them have failed.
DELAYS_S = (1.0, 4.0, 15.0)
LONGEST_WAIT_S = 60.0  # that a mirror may ask for (429), if there is no other
# A part is taken over from another connection only if that one would need longer than this for what it has left.
SPLIT_S = 1.0
SPLIT_BYTES = 2 << 20
FAST_BYTES_PER_S = 200_000_000  # one connection is enough: the hash, which goes from the beginning on, is no faster
HASH_STEP_BYTES = 4 << 20
HASHERS = 2
ELSEWHERE_S = 0.2  # how often to look whether another process has finished a file
TEXTS = (".html", ".htm")


@dataclass(eq=False)
class Task:
    """One artifact. `faults`: by mirror, how it failed in this round; those that will not change stay."""

    artifact: Artifact
    faults: dict[str, Fault] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)  # mirrors whose bytes may be why the hash was wrong
    files: ExitStack = field(default_factory=ExitStack)
    download: Download | None = None
    round: int = 0
    ready_at: float = 0.0
    round_bytes: int = 0  # that were here when the round began
    elsewhere: bool = False  # another process fetches it
    finishing: bool = False  # all bytes are here, and are being compared with the hash
    moved: bool = False  # some source has failed for it
    hashed: int = 0  # up to where its hash was last asked to go on

    @property
    def plan(self) -> RangePlan:
        assert self.download
        return self.download.plan


@dataclass(eq=False)
class Job:
    """One connection's work: a part of a file from one source."""

    task: Task
    claim: Claim
    standing: Standing
    started: float
    flow: Flow = field(default_factory=Flow)
    # (seconds waited, bytes received) of the last `STALL_S`; and when the last byte came
    window: deque[tuple[float, int]] = field(default_factory=lambda: deque([(0.0, 0)]))
    quiet_since_s: float = 0.0

    @property
    def speed(self) -> float:
        """Bytes per second, lately."""
        waited_s, received = self.window[0]
        return (self.flow.received - received) / max(self.flow.waited_s - waited_s, 0.05)


@dataclass(frozen=True)
class Progress:
    """How far a run is. `total_bytes` lacks the files whose length is not known yet; `name` is the largest one that is
    being fetched, `part` how much of it is here (0 to 1)."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int
    name: str = ""
    part: float = 0.0
    elsewhere: int = 0


Show = Callable[[Progress], None]


class Engine:
    """Fetches artifacts into a store. One run each."""

    def __init__(self, store: Store, client: Client, locations: Locations, standings: Standings) -> None:
        self._store = store
        self._client = client
        self._locations = locations
        self._standings = standings
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._active: list[Task] = []
        self._jobs: list[Job] = []
        self._digests: dict[str, str] = {}
        self._missed: list[Missed] = []
        self._moved = self._fetched_files = self._fetched_bytes = self._received = 0
        self._writing = 0  # connections that write to a file just now
        self._total = (0, 0)
        self._error: BaseException | None = None
        self._over = False
        self._hashers = ThreadPoolExecutor(HASHERS, thread_name_prefix="hash")

    def run(self, wanted: Iterable[Artifact], show: Show = lambda progress: None) -> Report:
        """Fetch what the store does not have. Raises `Unavailable` when all is tried, `StoreFull` before the first byte
        or as soon as the disk is full; what has come is kept in any case."""
        start = time.monotonic()
        tasks = self._planned(wanted)
        self._waiting.extend(tasks)
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(CONNECTIONS if tasks else 0)]
        for worker in workers:
            worker.start()
        try:
            while True:
                with self._changed:
                    if self._error or not (self._waiting or self._active):
                        break
                    self._changed.wait(TICK_S)
                    self._watch()
                    progress = self._progress()
                show(progress)
        finally:
            self._end(workers)
        if self._error:
            raise self._error
        if self._missed:
            raise Unavailable(self._missed)
        return self._report(time.monotonic() - start)

    def _planned(self, wanted: Iterable[Artifact]) -> list[Task]:
        """What is to be fetched, the largest first; raises `StoreFull` if there is no room for it."""
        needed: dict[str, Artifact] = {}
        here_bytes = 0
        for artifact in wanted:
            found = next((digest for digest in artifact.hashes if self._store.has(digest)), None)
            if found and len(artifact.hashes) == 1:
                self._digests[artifact.key] = found
            else:
                needed[artifact.key] = artifact
                here_bytes += self._store.partial_bytes(artifact.key)
        total_bytes = sum(artifact.size_bytes or 0 for artifact in needed.values())
        storage.check_room(self._store.root, total_bytes - here_bytes)
        self._total = (len(needed), total_bytes)
        return [Task(each) for each in sorted(needed.values(), key=lambda each: -(each.size_bytes or 0))]

    # Workers.

    def _work(self) -> None:
        block = memoryview(bytearray(BLOCK_BYTES))
        while job := self._next():
            try:
                self._receive(job, block)
                self._standings.worked(job.standing)
            except Fault as fault:
                with self._changed:
                    self._failed(job, fault)
            except BaseException as error:  # of the disk, of our settings, of ourselves: nobody else can do better
                self._stop(error)
            finally:
                self._done(job)

    def _next(self) -> Job | None:
        """Something to do; waits for it. None: there will be nothing more."""
        with self._changed:
            while not self._over and not self._error:
                try:
                    job = self._chosen()
                except BaseException as error:
                    self._stop(error)
                    break
                if job:
                    self._jobs.append(job)
                    return job
                if not (self._waiting or self._active):
                    break
                self._changed.wait(TICK_S)
        return None

    def _chosen(self) -> Job | None:
        """First what has been begun, then new files, then a part of what a slow connection has left."""
        now = time.monotonic()
        for task in list(self._active):
            assert task.download
            if now < task.ready_at or task.finishing or not (standing := self._source(task, now)):
                continue
            if claim := task.download.plan.claim():
                return Job(task, claim, standing, now)
        no_source = set()  # for files of such a kind: nobody need look again for the next hundred of them
        for task in list(self._waiting):
            kind = (task.artifact.space, *sorted(task.faults))
            if now < task.ready_at or kind in no_source:
                continue
            if not (standing := self._source(task, now)):
                no_source.add(kind)
            elif self._begun(task, now):
                assert task.download
                if claim := task.download.plan.claim():
                    return Job(task, claim, standing, now)
        return self._taken_over(now)

    def _source(self, task: Task, now: float) -> Standing | None:
        """The best source for a file that may be asked now. Ends the file's round if there is none any more."""
        order = [
            standing
            for standing in self._standings.order(task.artifact.space, task.faults)
            if standing.mirror not in task.suspects
        ]
        for standing in order:
            if standing.down:
                task.faults[standing.mirror] = standing.down
        fit = [standing for standing in order if not standing.down]
        begun = bool(task.download and task.download.plan.claims)
        if not fit:
            if not begun and not task.finishing:
                self._round_over(task, now)
            return None
        if begun and task.artifact.size_bytes is None:  # one source at a time: another may say that it is longer
            fit = [job.standing for job in self._jobs if job.task is task and job.standing in fit][:1]
        ready = [standing for standing in fit if now >= standing.ready_at]
        best = self._standings.best_speed(task.artifact.space)
        for place, standing in enumerate(ready):
            # Others join in where that helps; the origins only when their turn has come.
            if place and (standing.origin or ready[0].origin or standing.slow(best)):
                break
            if self._client.free(standing.source.url):
                return standing
        return None

    def _begun(self, task: Task, now: float) -> bool:
        """Have the file to ourselves; False if another process does, or has just finished it."""
        if len(task.artifact.hashes) == 1 and self._store.has(task.artifact.key):
            self._waiting.remove(task)
            self._digests[task.artifact.key] = task.artifact.key
            return False
        task.download = task.files.enter_context(download.opened(task.artifact, self._store))
        task.elsewhere = task.download is None
        if task.download is None:
            task.files.close()
            task.ready_at = now + ELSEWHERE_S
            return False
        self._waiting.remove(task)
        if len(task.artifact.hashes) == 1 and self._store.has(task.artifact.key):  # finished since we looked
            task.files.close()
            self._digests[task.artifact.key] = task.artifact.key
            return False
        self._active.append(task)
        task.round_bytes = task.download.plan.here.total
        if task.download.plan.complete:
            self._finish_soon(task)
            return False
        return True

    def _taken_over(self, now: float) -> Job | None:
        """A part of the connection that would take longest, if another source or connection can be had for it."""
        worth = []
        for job in self._jobs:
            left, speed = job.claim.remaining, job.speed
            if left is None or left < SPLIT_BYTES or not job.standing.ranged or now - job.started < SPLIT_S / 4:
                continue
            if speed < FAST_BYTES_PER_S and left > speed * SPLIT_S:
                worth.append((left / max(speed, 1.0), job))
        for _, victim in sorted(worth, key=lambda each: -each[0]):
            standing, plan = self._source(victim.task, now), victim.task.plan
            if standing and standing.ranged:
                return Job(victim.task, plan.split(victim.claim, _division(victim, standing)), standing, now)
        return None

    def _receive(self, job: Job, block: memoryview) -> None:
        """Fetch a claim, or as much of it as others leave to us. Raises `Fault`."""
        task, claim, standing = job.task, job.claim, job.standing
        assert task.download
        with contextlib.closing(self._opened(job)) as body:
            skipped = claim.start - body.start
            if skipped:
                standing.ranged = False  # it sends the whole file whatever is asked for
            while count := body.read_into(block):
                part = block[min(skipped, count) : count]
                skipped -= count - len(part)
                self._write(job, part)
                if claim.remaining == 0:
                    return
            with self._changed:
                if claim.end is None:
                    task.download.settle(claim.granted, standing.mirror)
                elif claim.remaining:
                    raise Fault(Kind.CUT, tr("ends {count} bytes before its end", count=claim.remaining))

    def _write(self, job: Job, part: memoryview) -> None:
        """Put into the file what of it is still ours to fetch."""
        download = job.task.download
        assert download
        with self._changed:
            if self._over or self._error:  # the file may be closed at any moment
                raise Fault(Kind.CUT, "")
            granted = download.plan.grant(job.claim, len(part))
            self._received += granted
            self._writing += 1
        try:
            download.write(job.claim, part[:granted])
        finally:
            with self._changed:
                self._writing -= 1
                if self._over:
                    self._changed.notify_all()
        with self._changed:
            download.wrote(job.claim, job.standing.mirror)
            job.standing.size_bytes += granted
            self._hash_on(job.task)

    def _opened(self, job: Job) -> Body:
        source, artifact = job.standing.source, job.task.artifact
        location = self._locations.of(source, artifact)
        try:
            body = self._asked(job, location)
        except Fault as fault:
            if not fault.challenge:
                raise
            body = self._asked(job, self._locations.challenged(source, artifact, fault))
        try:
            self._check(job, body)
        except BaseException:
            body.close()
            raise
        return body

    def _asked(self, job: Job, location: Location) -> Body:
        with self._changed:
            start, end = job.claim.start, job.claim.end
            assert job.task.download
            last = end is None or end == job.task.download.size
        return self._client.body(
            location.url, start=start, end=None if last else end, authorization=location.authorization, flow=job.flow
        )

    def _check(self, job: Job, body: Body) -> None:
        """What the headers say must fit: kind and length. Raises `Fault`."""
        kind = body.headers.get_content_type() if "Content-Type" in body.headers else ""
        if kind == "text/html" and not job.task.artifact.name.endswith(TEXTS):
            raise faults.of_body(200, b"<html")
        if body.headers.get("Content-Encoding", "identity") != "identity":
            raise Fault(Kind.PAGE, tr("sends it encoded, not as it is"))
        if body.start > job.claim.start:
            raise Fault(Kind.LENGTH, tr("206 of another part"))
        with self._changed:
            download = job.task.download
            assert download
            size = download.size
            if body.total is None or body.total == size:
                return
            if size is not None:
                raise Fault(
                    Kind.LENGTH, tr("{count} bytes instead of {size}", count=f"{body.total:,}", size=f"{size:,}")
                )
            download.settle(body.total, job.standing.mirror)

    def _done(self, job: Job) -> None:
        """A connection has ended; if its file is complete now, this thread finishes it."""
        task = job.task
        with self._changed:
            self._jobs.remove(job)
            job.standing.waited_s += job.flow.waited_s
            assert task.download
            with self._stopping_on_error():
                task.download.release(job.claim)
            complete = task.download.plan.complete and not task.download.plan.claims and not task.finishing
            if complete and not self._error:
                task.finishing = True
            self._changed.notify_all()
        if complete and not self._error:
            with self._stopping_on_error():
                self._finish(task)

    def _finish_soon(self, task: Task) -> None:
        """A file that was complete when we found it; called under the lock."""
        task.finishing = True

        def finish() -> None:
            with self._stopping_on_error():
                self._finish(task)

        self._hashers.submit(finish)

    def _finish(self, task: Task) -> None:
        """Compare the hash, and make the file visible or fetch what is to blame again."""
        assert task.download
        sha256 = task.download.hash_whole()
        good = sha256 in task.artifact.hashes
        if good:
            task.download.commit(sha256)
        with self._changed:
            if good:
                self._finished(task, sha256)
            else:
                self._blame(task)
                task.finishing = False
            self._changed.notify_all()

    def _finished(self, task: Task, sha256: str) -> None:
        download = task.download
        assert download
        for mirror in task.suspects:  # without their bytes it was right
            self._fault(task, self._standing(task, mirror), _corrupt())
        brought = [mirror for mirror in download.owners_of_bytes() if mirror != EARLIER]
        for mirror in brought:
            self._standing(task, mirror).files.add(task.artifact.key)
        self._moved += task.moved
        self._fetched_files += 1
        self._fetched_bytes += sum(download.owners[mirror].total for mirror in brought)
        self._digests[task.artifact.key] = sha256
        self._active.remove(task)
        task.files.close()

    def _blame(self, task: Task) -> None:
        """The hash is wrong. Bytes of one source alone: it is to blame. Otherwise those of the least go first."""
        download = task.download
        assert download
        first, *others = download.owners_of_bytes() or [download.length_from]
        if first != EARLIER and not others:
            self._fault(task, self._standing(task, first), _corrupt())
            task.suspects.clear()
        elif first != EARLIER:
            task.suspects.add(first)
        download.forget(first)
        task.hashed = 0

    # Under the lock.

    def _standing(self, task: Task, mirror: str) -> Standing:
        return next(each for each in self._standings.of(task.artifact.space) if each.mirror == mirror)

    def _failed(self, job: Job, fault: Fault) -> None:
        """A connection has failed, unless it was we who ended it."""
        download = job.task.download
        if self._error or self._over or not download:
            return
        if fault.kind is Kind.LENGTH and download.length_was_said_by_others(job.standing.mirror):
            download.restart()  # this one may be right as well
        else:
            self._fault(job.task, job.standing, fault)

    def _fault(self, task: Task, standing: Standing, fault: Fault) -> None:
        task.moved = True
        task.faults[standing.mirror] = fault
        self._standings.failed(standing, fault, task.artifact.key)

    def _round_over(self, task: Task, now: float) -> None:
        """All sources have failed: begin anew with those that may do better, or give the file up."""
        if task.suspects:  # they are the only ones left
            task.suspects.clear()
            return
        here = task.download.plan.here.total if task.download else 0
        if here > task.round_bytes:
            task.round, task.round_bytes = 0, here
        again = {mirror for mirror, fault in task.faults.items() if fault.kind.again and fault.wait_s <= LONGEST_WAIT_S}
        rounds = len(DELAYS_S) if self._received else 1  # where nothing has ever come, nothing will
        if not again or task.round >= rounds:
            self._give_up(task)
            return
        waits = [self._standing(task, mirror).ready_at - now for mirror in again]
        task.ready_at = now + max(DELAYS_S[task.round], min(waits))
        task.round += 1
        task.faults = {mirror: fault for mirror, fault in task.faults.items() if mirror not in again}
        self._standings.lift()

    def _give_up(self, task: Task) -> None:
        reasons = tuple(
            (standing.mirror, task.faults[standing.mirror].text)
            for standing in self._standings.of(task.artifact.space)
            if standing.mirror in task.faults
        )
        self._missed.append(Missed(task.artifact.name, reasons))
        (self._active if task in self._active else self._waiting).remove(task)
        task.files.close()
        self._changed.notify_all()

    def _hash_on(self, task: Task) -> None:
        """Let the hash follow what has been written, in a thread of its own: on a fast link it takes as long."""
        download = task.download
        assert download
        prefix = download.plan.here.prefix
        if prefix - task.hashed >= HASH_STEP_BYTES:
            task.hashed = prefix
            self._hashers.submit(download.hash_available)

    def _watch(self) -> None:
        """Cut off what is too slow."""
        for job in self._jobs:
            waited_s, received = job.flow.waited_s, job.flow.received
            if received != job.window[-1][1]:
                job.quiet_since_s = waited_s
            job.window.append((waited_s, received))
            while job.window[1][0] < waited_s - STALL_S:
                job.window.popleft()
            before_s, before = job.window[0]
            quiet_s, over_s = waited_s - job.quiet_since_s, waited_s - before_s
            if quiet_s >= (SILENCE_S if job.task.round else STALL_S):
                stalled = tr("stalled: nothing for {seconds:.0f} s", seconds=quiet_s)
                job.flow.cut(Fault(Kind.STALLED, stalled) if received else Fault(Kind.SILENT, tr("timed out")))
            elif not job.task.round and over_s >= STALL_S and received - before < STALL_BYTES_PER_S * over_s:
                speed = (received - before) / over_s / 1000
                job.flow.cut(Fault(Kind.STALLED, tr("stalled: {speed:.0f} kB/s", speed=speed)))

    def _progress(self) -> Progress:
        files, total_bytes = self._total
        begun = [task for task in self._active if task.download]
        left = [*self._active, *self._waiting]
        left_bytes = sum(self._left(task) for task in left)
        unknown = sum(task.download.size or 0 for task in begun if task.download and task.artifact.size_bytes is None)
        total_bytes += unknown
        largest = max(begun, key=lambda task: task.download.size or 0 if task.download else 0, default=None)
        name, part = "", 0.0
        if largest and largest.download and largest.download.size:
            name, part = largest.artifact.name, largest.download.plan.here.total / largest.download.size
        done_files = files - len(left)
        elsewhere = sum(task.elsewhere for task in self._waiting)
        return Progress(total_bytes - left_bytes, total_bytes, done_files, files, name, part, elsewhere)

    def _left(self, task: Task) -> int:
        size = (task.download.size if task.download else task.artifact.size_bytes) or 0
        return size - (task.download.plan.here.total if task.download else 0)

    # The end.

    def _stop(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    @contextlib.contextmanager
    def _stopping_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._stop(error)

    def _end(self, workers: Sequence[threading.Thread]) -> None:
        """Whatever happened: no thread goes on writing, and what has come is noted for the next run."""
        with self._changed:
            self._over = True
            for job in self._jobs:
                job.flow.cut(Fault(Kind.CUT, ""))
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing)
        for worker in workers:
            worker.join(0.5)  # one that looks up a name may take longer, but will not write any more
        self._hashers.shutdown(cancel_futures=True)
        with self._changed:
            for task in self._active:
                task.files.close()

    def _report(self, seconds: float) -> Report:
        mirrors: dict[str, list[Standing]] = {}
        for standing in self._standings.all():
            mirrors.setdefault(standing.mirror, []).append(standing)
        return Report(
            self._digests, self._fetched_files, self._fetched_bytes, seconds, self._moved,
            tuple(_mirror(name, group) for name, group in mirrors.items() if any(_said(each) for each in group)),
        )  # fmt: skip


def _division(victim: Job, standing: Standing) -> int:
    """Where to divide what a connection has left, so that both parts take the same time."""
    left, start = victim.claim.remaining or 0, victim.claim.granted
    if not victim.flow.received:  # it may be about to begin
        return start + left // 2
    speed = max(victim.speed, 1.0)
    return start + min(left - 1, int(left * speed / (speed + (standing.speed or speed))))


def _corrupt() -> Fault:
    return Fault(Kind.CORRUPT, tr("checksum differs"))


def _said(standing: Standing) -> bool:
    return bool(standing.size_bytes or standing.failures)


def _mirror(name: str, group: Sequence[Standing]) -> MirrorReport:
    failures: dict[str, int] = {}
    for standing in group:
        for kind, files in standing.failures.items():
            text = standing.reasons[kind]
            failures[text] = failures.get(text, 0) + len(files)
    return MirrorReport(name, sum(len(each.files) for each in group), sum(each.size_bytes for each in group), failures)
