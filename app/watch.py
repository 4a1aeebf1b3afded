"""Jobs as they change. One question to the store at a time tells all who listen, however many they are."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

from app import logs
from app.jobs.base import ENDS, Job, StoreUnavailable
from app.jobs.store import JobStore

POLL_S = 0.1
WAITING_S = 1.0


class Watch:
    """Runs (`run`) beside the server; without listeners it asks nothing. When it `is_closing`, who follows a job that
    only waits does so no longer.
    """

    def __init__(self, store: JobStore) -> None:
        self.is_closing = False
        self._store = store
        self._wanted: Counter[str] = Counter()
        self._known: dict[str, Job] = {}
        self._asked: frozenset[str] = frozenset()  # of which `_known` tells, also that they are gone
        self._looked = asyncio.Condition()
        self._listens = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._listens.wait()
            asked = frozenset(self._wanted)
            try:
                known = await asyncio.to_thread(self._store.these, asked)
            except StoreUnavailable:  # it is asked again, and those who listen see it go on
                pass
            except Exception as error:  # likewise
                logs.event(logs.TROUBLE, error=error)
            else:
                async with self._looked:
                    self._known, self._asked = known, asked
                    self._looked.notify_all()
            await asyncio.sleep(POLL_S)

    async def follow(self, number: str) -> AsyncIterator[Job]:
        """A job now and whenever it has changed, until it has ended or is deleted; one that waits each second, too,
        since what is in front of it changes.
        """
        self._wanted[number] += 1
        self._listens.set()
        last, told_s = None, 0.0
        try:
            job: Job | None = await asyncio.to_thread(self._store.job, number)
            while job is not None:
                now = time.monotonic()
                if job != last or (job.state == "queued" and now - told_s >= WAITING_S):
                    last, told_s = job, now
                    yield job
                if job.state in ENDS or (self.is_closing and job.state == "queued"):
                    return
                async with self._looked:
                    await self._looked.wait()
                    if number in self._asked:  # else the question was older than we are
                        job = self._known.get(number)
        finally:
            self._wanted[number] -= 1
            if self._wanted[number] <= 0:
                del self._wanted[number]
            if not self._wanted:
                self._listens.clear()
