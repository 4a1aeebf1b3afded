"""Which connection fetches what: files that wait, files that are being fetched, and what each connection works on.

Nothing here blocks or asks anybody. The engine calls it under one lock.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from jingxiang.fetch import download
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.download import EARLIER, Download
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.fetch.ranges import Claim, RangePlan
from jingxiang.fetch.report import Missed
from jingxiang.fetch.standings import Standing, Standings
from jingxiang.language import tr
from jingxiang.store import Store

# A part is taken over from another connection only if that one would need longer than this for what it has left.
SPLIT_S = 1.0
SPLIT_BYTES = 256 << 10
FAST_BYTES_PER_S = 200_000_000  # one connection is enough: the hash, which goes from the beginning on, is no faster
PROGRESS_BYTES = 1 << 20  # that a round has to bring for the next ones not to count
LONG_BYTES = 100_000_000  # that one connection would still be busy with when all else is there
ELSEWHERE_S = 0.2  # how often to look whether another process has finished a file


@dataclass(frozen=True)
class Patience:
    """With mirrors. A connection that brings less than `stall_bytes_per_s` over `stall_s` is cut off while there is
    somebody else to ask, one that brings nothing for `silence_s` even if there is not. When all have failed for a file,
    it waits `delays_s` before its next rounds; `longest_wait_s` is what a mirror may ask for (429)."""

    stall_s: float = 5.0
    stall_bytes_per_s: float = 20_000
    silence_s: float = 10.0
    delays_s: tuple[float, ...] = (1.0, 4.0, 15.0)
    longest_wait_s: float = 60.0


@dataclass(eq=False)
class Task:
    """One artifact. `faults`: by mirror, how it failed in this round; those that will not change stay."""

    artifact: Artifact
    faults: dict[str, Fault] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)  # mirrors whose bytes may be why the hash was wrong
    pardoned: set[str] = field(default_factory=set)  # suspects that were asked again, for want of others
    files: ExitStack = field(default_factory=ExitStack)
    download: Download | None = None
    round: int = 0
    round_bytes: int = 0  # that were here when the round began
    ready_at: float = 0.0
    elsewhere: bool = False  # another process fetches it
    finishing: bool = False  # all bytes are here, and are being compared with the hash
    moved: bool = False  # some source has failed for it
    over: bool = False  # given up

    @property
    def file(self) -> Download:
        assert self.download
        return self.download

    @property
    def plan(self) -> RangePlan:
        return self.file.plan

    @property
    def here_bytes(self) -> int:
        return self.plan.here.total if self.download else 0

    @property
    def size_bytes(self) -> int:
        """As far as it is known."""
        return (self.plan.size if self.download else self.artifact.size_bytes) or 0


@dataclass(eq=False)
class Job:
    """One connection's work: a part of a file from one source."""

    task: Task
    claim: Claim
    standing: Standing
    started: float
    flow: Flow = field(default_factory=Flow)
    size_then: int | None = None  # how long the file was believed to be when it began
    # (seconds waited, bytes received) of the last `stall_s`; and when the last byte came
    window: deque[tuple[float, int]] = field(default_factory=lambda: deque([(0.0, 0)]))
    quiet_since_s: float = 0.0

    @property
    def speed(self) -> float:
        """Bytes per second, lately."""
        waited_s, received = self.window[0]
        return (self.flow.received - received) / max(self.flow.waited_s - waited_s, 0.05)

    @property
    def quiet(self) -> bool:
        """Whether nothing has come for a while: another connection to the same server would fare no better."""
        return self.flow.waited_s - self.quiet_since_s > SPLIT_S / 2

    def verdict(self, patience: Patience) -> Fault | None:
        """Why to cut it off, if it is too slow. To be asked several times a second."""
        waited_s, received = self.flow.waited_s, self.flow.received
        if received != self.window[-1][1]:
            self.quiet_since_s = waited_s
        self.window.append((waited_s, received))
        while self.window[1][0] < waited_s - patience.stall_s:
            self.window.popleft()
        before_s, before = self.window[0]
        quiet_s, over_s = waited_s - self.quiet_since_s, waited_s - before_s
        if quiet_s >= (patience.silence_s if self.task.round else patience.stall_s):
            stalled = tr("stalled: nothing for {seconds:.0f} s", seconds=quiet_s)
            return Fault(Kind.STALLED, stalled) if received else Fault(Kind.SILENT, tr("timed out"))
        speed = (received - before) / max(over_s, 0.001)
        if not self.task.round and over_s >= patience.stall_s and speed < patience.stall_bytes_per_s:
            return Fault(Kind.STALLED, tr("stalled: {speed:.0f} kB/s", speed=speed / 1000))
        return None


@dataclass(frozen=True)
class Progress:
    """How far a run is. `total_bytes` lacks the files whose length is not known yet; `name` is the largest one that is
    being fetched, `part` how much of it is here (0 to 1). `elsewhere`: files that another process fetches."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int
    name: str = ""
    part: float = 0.0
    elsewhere: int = 0


class Schedule:
    """The tasks of one run, with at most `per_host` connections to a host at a time."""

    def __init__(
        self, wanted: Iterable[Artifact], store: Store, standings: Standings, *, per_host: int, patience: Patience
    ) -> None:
        self._waiting = deque(Task(each) for each in sorted(wanted, key=_turn))
        self._active: list[Task] = []
        self.jobs: list[Job] = []
        self._store = store
        self._standings = standings
        self._per_host = per_host
        self._patience = patience
        self.received_bytes = 0
        self.digests: dict[str, str] = {}  # of what is in the store now, by the artifact's key
        self.missed: list[Missed] = []
        self.moved = self.fetched_files = self.fetched_bytes = 0
        self._total_files = len(self._waiting)
        self._known_bytes = sum(task.size_bytes for task in self._waiting)

    @property
    def over(self) -> bool:
        return not (self._waiting or self._active)

    def next(self) -> Job | None:
        """Something to do; None: nothing just now.

        First what has been begun and nobody works on, then new files, then a part of what a slow connection has left;
        but that before new files if it alone would take longer than all of them.
        """
        now = time.monotonic()
        job = (
            self._of_active(now)
            or self._taken_over(now, longer_s=self._waiting_s())
            or self._of_waiting(now)
            or self._taken_over(now)
        )
        if job:
            job.size_then = job.task.plan.size
            self.jobs.append(job)
            job.standing.open(job.flow)
        return job

    def ended(self, job: Job) -> bool:
        """A connection has ended, in whatever way. True: its file is complete, and is the caller's to finish."""
        self.jobs.remove(job)
        job.standing.close(job.flow)
        job.task.file.release(job.claim)
        return self._completed(job.task)

    def failed(self, job: Job, fault: Fault) -> None:
        """A connection has failed for its file; the file goes on with other sources."""
        file, mirror = job.task.file, job.standing.mirror
        if fault.kind is not Kind.LENGTH or not file.rests_on_others(mirror):
            self._fault(job.task, job.standing, fault)
        elif job.size_then == file.plan.size:  # else another connection has said the same before
            file.restart()

    def finished(self, task: Task, sha256: str) -> None:
        """The file is in the store."""
        for mirror in task.suspects:  # without their bytes it was right
            self._fault(task, self._standing(task, mirror), _corrupt())
        brought = [mirror for mirror in task.file.owners_of_bytes() if mirror != EARLIER]
        for mirror in brought:
            self._standing(task, mirror).files.add(task.artifact.key)
        self.moved += task.moved
        self.fetched_files += 1
        self.fetched_bytes += sum(task.file.owners[mirror].total for mirror in brought)
        self._known_bytes += task.size_bytes if task.artifact.size_bytes is None else 0
        self.digests[task.artifact.key] = sha256
        self._active.remove(task)
        task.files.close()

    def blame(self, task: Task) -> None:
        """The hash is wrong. Bytes of one source alone: it is to blame. Otherwise those of the least go first.

        Who was suspected is cleared when the rest turns out to be wrong, and is to blame when it is right.
        """
        first, *others = task.file.owners_of_bytes() or [task.file.length_from]
        if first != EARLIER and not others:
            self._fault(task, self._standing(task, first), _corrupt())
            task.suspects.clear()
        elif first != EARLIER:
            task.suspects.add(first)
        task.file.forget(first)
        task.finishing = False

    def begun(self) -> list[Task]:
        """Files that are complete but were so when they were found; each once, the caller's to finish."""
        return [task for task in self._active if self._completed(task)]

    def close(self) -> None:
        """Nobody may be writing any more. What has come is noted for the next run."""
        for task in self._active:
            task.files.close()

    def progress(self) -> Progress:
        left = [*self._active, *self._waiting]
        total = self._known_bytes + sum(task.size_bytes for task in left if task.artifact.size_bytes is None)
        done = total - sum(task.size_bytes - task.here_bytes for task in left)
        largest = max(self._active, key=lambda task: task.size_bytes, default=None)
        name = largest.artifact.name if largest else ""
        part = largest.here_bytes / largest.size_bytes if largest and largest.size_bytes else 0.0
        elsewhere = sum(task.elsewhere for task in self._waiting)
        return Progress(done, total, self._total_files - len(left), self._total_files, name, part, elsewhere)

    # What to do next.

    def _of_active(self, now: float) -> Job | None:
        for task in list(self._active):
            if now < task.ready_at or task.finishing:
                continue
            if (standing := self._source(task, now)) and (claim := task.plan.claim()):
                return Job(task, claim, standing, now)
        return None

    def _of_waiting(self, now: float) -> Job | None:
        no_source = set()  # for files like that one: no need to look again for the next hundred of them
        for task in list(self._waiting):
            kind = (task.artifact.space, *sorted(task.faults))
            if now < task.ready_at or kind in no_source:
                continue
            if not (standing := self._source(task, now)):
                if not task.over and now >= task.ready_at:  # they are busy
                    no_source.add(kind)
            elif self._begin(task, now) and not task.plan.complete and (claim := task.plan.claim()):
                return Job(task, claim, standing, now)
        return None

    def _waiting_s(self) -> float:
        """What all files that nobody has begun would take at the speed of now; nobody knows if a length is missing."""
        if not all(task.size_bytes for task in self._waiting):
            return math.inf
        waiting_bytes = sum(task.size_bytes for task in self._waiting)
        return waiting_bytes / max(sum(job.speed for job in self.jobs), 1.0)

    def _taken_over(self, now: float, longer_s: float = 0.0) -> Job | None:
        """A part of the connection that would take longest, if another source or connection can be had for it."""
        worth = []
        for job in self.jobs:
            left, speed = job.claim.remaining, job.speed
            if left is None or left < SPLIT_BYTES or not job.standing.ranged or now - job.started < SPLIT_S / 4:
                continue
            if speed < FAST_BYTES_PER_S and left > speed * max(SPLIT_S, longer_s):
                worth.append((left / max(speed, 1.0), job))
        for _, victim in sorted(worth, key=lambda each: -each[0]):
            standing, plan = self._source(victim.task, now), victim.task.plan
            if standing and standing.ranged and not (victim.quiet and standing is victim.standing):
                return Job(victim.task, plan.split(victim.claim, _division(victim, standing)), standing, now)
        return None

    def _source(self, task: Task, now: float) -> Standing | None:
        """The best source for a file that may be asked now. Ends the file's round if there is none any more."""
        order = self._standings.order(task.artifact.space, task.faults)
        task.faults |= {standing.mirror: standing.down for standing in order if standing.down}
        fit = [each for each in order if not each.down and each.mirror not in task.suspects]
        begun = bool(task.download and task.plan.claims)
        if not fit:
            if not begun and not task.finishing:
                self._round_over(task, now)
            return None
        if begun and task.artifact.size_bytes is None:  # one source at a time: another may say that it is longer
            fit = [job.standing for job in self.jobs if job.task is task and job.standing in fit][:1]
        ready = [standing for standing in fit if now >= standing.ready_at]
        best = self._standings.best_speed(task.artifact.space)
        for place, standing in enumerate(ready):
            # Others join in where that helps; the origins only when their turn has come, and none beside a folder.
            if place and (standing.origin or ready[0].origin or ready[0].folder or standing.slow(best)):
                break
            if standing.folder or sum(job.standing.host == standing.host for job in self.jobs) < self._per_host:
                return standing
        return None

    def _begin(self, task: Task, now: float) -> bool:
        """Have the file to ourselves; False if another process does, or has finished it."""
        known = len(task.artifact.hashes) == 1
        if not (known and self._store.has(task.artifact.key)):
            task.download = task.files.enter_context(download.opened(task.artifact, self._store))
            task.elsewhere = task.download is None
            if task.elsewhere:
                task.files.close()
                task.ready_at = now + ELSEWHERE_S
                return False
        self._waiting.remove(task)
        if known and self._store.has(task.artifact.key):  # by then
            task.files.close()
            self.digests[task.artifact.key] = task.artifact.key
            return False
        self._active.append(task)
        task.round_bytes = task.here_bytes
        return True

    def _completed(self, task: Task) -> bool:
        """Whether it is complete, and nobody finishes it yet."""
        if task.finishing or not task.plan.complete or task.plan.claims:
            return False
        task.finishing = True
        return True

    # What has gone wrong.

    def _fault(self, task: Task, standing: Standing, fault: Fault) -> None:
        task.moved = True
        task.faults[standing.mirror] = fault
        self._standings.failed(standing, fault, task.artifact.counted)

    def _round_over(self, task: Task, now: float) -> None:
        """All sources have failed: begin anew with those that may do better, or give the file up."""
        if task.suspects:  # they are the only ones left
            for mirror in task.suspects & task.pardoned:
                self._fault(task, self._standing(task, mirror), _corrupt())
            task.pardoned |= task.suspects
            task.suspects.clear()
            return
        if task.here_bytes - task.round_bytes >= PROGRESS_BYTES:
            task.round, task.round_bytes = 0, task.here_bytes
        longest_s, delays_s = self._patience.longest_wait_s, self._patience.delays_s
        again = {mirror for mirror, fault in task.faults.items() if fault.kind.again and fault.wait_s <= longest_s}
        # Who has never been reached in this run will hardly be so in a few seconds.
        hopeful = any(
            task.faults[mirror].kind is not Kind.UNREACHABLE or self._standing(task, mirror).size_bytes
            for mirror in again
        )
        rounds = len(delays_s) if hopeful else 1
        if not again or task.round >= rounds:
            self._give_up(task)
            return
        waits = [self._standing(task, mirror).ready_at - now for mirror in again]
        task.ready_at = now + max(delays_s[task.round], min(waits))
        task.round += 1
        task.faults = {mirror: fault for mirror, fault in task.faults.items() if mirror not in again}
        self._standings.lift()

    def _give_up(self, task: Task) -> None:
        reasons = tuple(
            (standing.mirror, task.faults[standing.mirror].text)
            for standing in self._standings.of(task.artifact.space)
            if standing.mirror in task.faults
        )
        self.missed.append(Missed(task.artifact.name, reasons))
        (self._active if task in self._active else self._waiting).remove(task)
        self._known_bytes -= task.artifact.size_bytes or 0
        task.over = True
        task.files.close()

    def _standing(self, task: Task, mirror: str) -> Standing:
        return next(each for each in self._standings.of(task.artifact.space) if each.mirror == mirror)


def _turn(artifact: Artifact) -> tuple[bool, bool, int]:
    """Very long files first: the others fill in what they leave. Then what can be compiled while the rest is coming."""
    return artifact.expected_bytes < LONG_BYTES, not artifact.is_pure, -artifact.expected_bytes


def _division(victim: Job, standing: Standing) -> int:
    """Where to divide what a connection has left, so that both parts take the same time."""
    left, start = victim.claim.remaining or 0, victim.claim.granted
    if not victim.flow.received:  # it may be about to begin
        return start + left // 2
    speed = max(victim.speed, 1.0)
    return start + min(left - 1, int(left * speed / (speed + (standing.speed or speed))))


def _corrupt() -> Fault:
    return Fault(Kind.CORRUPT, tr("checksum differs"))
