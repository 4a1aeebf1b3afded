"""Many files from many mirrors at once, into the store.

One thread per connection, each of which takes the next piece of work from the schedule, under one lock. The caller's
thread watches: it shows how far things are, and cuts off connections that bring too little.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jingxiang import storage
from jingxiang.fetch import faults
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.bodies import Body
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.locations import Location, Locations
from jingxiang.fetch.report import MirrorReport, Report, Unavailable
from jingxiang.fetch.schedule import Job, Patience, Progress, Schedule, Task
from jingxiang.fetch.standings import Standing, Standings
from jingxiang.language import tr
from jingxiang.store import Store

CONNECTIONS = 8
HASHERS = 2  # threads
BLOCK_BYTES = 512 << 10
TICK_S = 0.1
PAGES = (".html", ".htm")  # names of files that may be web pages
LEFT_S = 7 * 24 * 3600.0  # partial files that nobody has come back to for so long are removed

Show = Callable[[Progress], None]


class Engine:
    """Fetches artifacts into a store. One run each."""

    def __init__(
        self, store: Store, client: Client, locations: Locations, standings: Standings, patience: Patience
    ) -> None:
        self._store = store
        self._client = client
        self._locations = locations
        self._standings = standings
        self._patience = patience
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ending = False
        self._writing = 0  # connections that write to a file just now
        self._hashers = ThreadPoolExecutor(HASHERS)
        self._flusher = ThreadPoolExecutor(1)  # of its own: it waits for the disk

    def run(self, wanted: Iterable[Artifact], show: Show = lambda progress: None) -> Report:
        """Fetch what the store does not have.

        Raises `Unavailable` when everything has been tried; `StoreFull` before the first byte, or as soon as the disk
        is full. What has come by then is kept.
        """
        start = time.monotonic()
        here, missing = self._sorted(wanted)
        schedule = self._schedule = Schedule(
            missing, self._store, self._standings, per_host=self._client.per_host, patience=self._patience
        )
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(CONNECTIONS if missing else 0)]
        for worker in workers:
            worker.start()
        try:
            while True:
                with self._changed:
                    if self._error or schedule.over:
                        break
                    self._changed.wait(TICK_S)
                    for job in schedule.jobs:
                        if fault := job.verdict(self._patience):
                            job.flow.cut(fault)
                    progress = schedule.progress()
                show(progress)
        finally:
            self._end(workers)
        if self._error:
            raise self._error
        if schedule.missed:
            raise Unavailable(schedule.missed)
        return Report(
            here | schedule.digests, schedule.fetched_files, schedule.fetched_bytes, time.monotonic() - start,
            schedule.moved, self._mirrors(),
        )  # fmt: skip

    def _sorted(self, wanted: Iterable[Artifact]) -> tuple[dict[str, str], list[Artifact]]:
        """What is here already, and what is to be fetched; raises `StoreFull` if there is no room for it."""
        here: dict[str, str] = {}
        missing: dict[str, Artifact] = {}
        for artifact in wanted:
            if len(artifact.hashes) == 1 and self._store.has(artifact.key):
                here[artifact.key] = artifact.key
            else:
                missing[artifact.key] = artifact
        if missing:
            total_bytes = sum(artifact.size_bytes or 0 for artifact in missing.values())
            storage.check_room(self._store.root, total_bytes - sum(map(self._store.partial_bytes, missing)))
            self._store.forget(LEFT_S)
        return here, list(missing.values())

    # One connection.

    def _work(self) -> None:
        block = memoryview(bytearray(BLOCK_BYTES))
        while job := self._next():
            with self._stopping_on_error():
                try:
                    self._receive(job, block)
                    self._standings.worked(job.standing)
                except Fault as fault:
                    with self._changed:
                        if not self._stopped():  # by us
                            self._schedule.failed(job, fault)
                with self._changed:
                    complete = self._schedule.ended(job)
                    self._changed.notify_all()
                if complete:
                    self._finish(job.task)

    def _next(self) -> Job | None:
        """Something to do; waits for it. None: there will be nothing more."""
        with self._changed, self._stopping_on_error():
            while not self._stopped() and not self._schedule.over:
                job = self._schedule.next()
                for task in self._schedule.begun():
                    self._hashers.submit(self._finish, task)
                if job:
                    return job
                self._changed.wait(TICK_S)
        return None

    def _receive(self, job: Job, block: memoryview) -> None:
        """Fetch a claim, or as much of it as others leave to us. Raises `Fault`."""
        claim = job.claim
        with contextlib.closing(self._opened(job)) as body:
            skipped = claim.start - body.start
            if skipped:
                job.standing.ranged = False  # it sends the whole file whatever is asked for
            while count := body.read_into(block):
                part = block[min(skipped, count) : count]
                skipped -= count - len(part)
                self._write(job, part)
                if claim.remaining == 0:
                    return
            with self._changed:
                if claim.end is None:
                    job.task.file.settle(claim.granted, job.standing.mirror)
                elif claim.remaining:
                    raise Fault(Kind.CUT, tr("ends {count} bytes before its end", count=claim.remaining))

    def _write(self, job: Job, part: memoryview) -> None:
        """Put into the file what of it is still ours to fetch."""
        file = job.task.file
        with self._changed:
            if self._stopped():  # the file may be closed at any moment
                raise Fault(Kind.CUT, "")
            granted = file.plan.grant(job.claim, len(part))
            self._schedule.received_bytes += granted
            self._writing += 1
        try:
            file.write(job.claim, part[:granted])
            with self._changed:
                file.wrote(job.claim, job.standing.mirror)
                job.standing.size_bytes += granted
                if file.hash_is_due():
                    self._hashers.submit(file.hash_available)
                if file.flush_is_due():
                    self._flusher.submit(file.flush)
        finally:
            with self._changed:
                self._writing -= 1
                if self._stopped():
                    self._changed.notify_all()

    def _opened(self, job: Job) -> Body:
        """The body of the answer to the request for a claim, if its headers fit."""
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
            if end == job.task.plan.size:
                end = None
        return self._client.body(
            location.url, start=start, end=end, authorization=location.authorization, flow=job.flow
        )

    def _check(self, job: Job, body: Body) -> None:
        """Raise `Fault` unless kind and length are those of the file."""
        if body.headers.get_content_type() == "text/html" and not job.task.artifact.name.endswith(PAGES):
            raise faults.of_body(200, b"<html")
        if body.headers.get("Content-Encoding", "identity") != "identity":
            raise Fault(Kind.PAGE, tr("sends it encoded, not as it is"))
        if body.start > job.claim.start:
            raise Fault(Kind.LENGTH, tr("206 of another part"))
        with self._changed:
            size, here = job.task.plan.size, job.task.plan.here.total
            if body.total is None or body.total == size:
                return
            if size is not None or body.total < here:
                text = tr("{count} bytes instead of {size}", count=f"{body.total:,}", size=f"{size or here:,}")
                raise Fault(Kind.LENGTH, text)
            job.task.file.settle(body.total, job.standing.mirror)

    def _finish(self, task: Task) -> None:
        """Compare the hash, and make the file visible, or have what is to blame fetched again."""
        with self._stopping_on_error():
            sha256 = task.file.hash_whole()
            good = sha256 in task.artifact.hashes
            if good:
                task.file.commit(sha256)
            with self._changed:
                if good:
                    self._schedule.finished(task, sha256)
                else:
                    self._schedule.blame(task)
                self._changed.notify_all()

    # The end.

    def _stopped(self) -> bool:
        return self._ending or self._error is not None

    @contextlib.contextmanager
    def _stopping_on_error(self) -> Iterator[None]:
        """An error of the disk, of our settings, of ourselves: no mirror can do better."""
        try:
            yield
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _end(self, workers: Sequence[threading.Thread]) -> None:
        """Whatever happened: no thread goes on writing, and what has come is noted for the next run."""
        with self._changed:
            self._ending = True
            for job in self._schedule.jobs:
                job.flow.cut(Fault(Kind.CUT, ""))
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing)
        for worker in workers:
            worker.join(0.5)  # one that looks up a name may take longer, but will not write any more
        for pool in (self._hashers, self._flusher):
            pool.shutdown(cancel_futures=True)
        with self._changed:
            self._schedule.close()

    def _mirrors(self) -> tuple[MirrorReport, ...]:
        """What each mirror did, over all of its spaces."""
        groups: dict[str, list[Standing]] = {}
        for standing in self._standings.all():
            if standing.size_bytes or standing.failures:
                groups.setdefault(standing.mirror, []).append(standing)
        return tuple(_of_mirror(name, group) for name, group in groups.items())


def _of_mirror(name: str, group: Sequence[Standing]) -> MirrorReport:
    failures: dict[str, int] = {}
    for standing in group:
        for kind, failed in standing.failures.items():
            failures[standing.reasons[kind]] = failures.get(standing.reasons[kind], 0) + len(failed)
    brought = sum(len(standing.files) for standing in group)
    return MirrorReport(name, brought, sum(standing.size_bytes for standing in group), failures)
