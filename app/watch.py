"""Jobs as they change. One question to the store at a time tells all who listen, however many they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from app.jobs.base import ENDS, Job, StoreUnavailable
from app.jobs.store import JobStore

POLL_S = 0.1


class Watch:
    """Runs (`run`) beside the server; without listeners it asks nothing. When it `is_closing`, who follows a job that
    only waits does so no longer.
    """

    def __init__(self, store: JobStore) -> None:
        self.is_closing = False
        self._store = store
        self._wanted: Counter[str] = Counter()
        self._known: dict[str, Job] = {}
        self._looked = asyncio.Condition()
        self._listens = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._listens.wait()
            try:
                known = await asyncio.to_thread(self._store.these, list(self._wanted))
            except StoreUnavailable:  # it is asked again, and those who listen see it go on
                pass
            else:
                async with self._looked:
                    self._known = known
                    self._looked.notify_all()
            await asyncio.sleep(POLL_S)

    async def follow(self, number: str) -> AsyncIterator[Job]:
        """A job now and whenever it has changed, until it has ended or is deleted."""
        self._wanted[number] += 1
        self._listens.set()
        last: Job | None = None
        try:
            job: Job | None = await asyncio.to_thread(self._store.job, number)
            while job is not None:
                if job != last:
                    yield job
                    last = job
                if job.state in ENDS or (self.is_closing and job.state == "queued"):
                    return
                async with self._looked:
                    await self._looked.wait()
                    job = self._known.get(number)
        finally:
            self._wanted[number] -= 1
            if self._wanted[number] <= 0:
                del self._wanted[number]
            if not self._wanted:
                self._listens.clear()

    @property
    def listeners(self) -> int:
        return self._wanted.total()
