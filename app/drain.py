"""Stopping without losing what somebody waits for: a server that was told to stop may do so when `Drain.over`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# A page that has been told that its video is there asks for the file next.
LINGER_S = 2.0
# How long that may go on: for slow downloads, and not for ever because of somebody who keeps on asking.
LINGER_MOST_S = 30.0
# Streams that end when the page is closed, and not with a job: Gradio's, which only says that the server lives, and the
# one of all jobs.
ENDLESS = ("/heartbeat/", "/api/events")


@dataclass(eq=False)
class _Visit:
    task: asyncio.Task[Any] | None
    endless: bool
    is_stream: bool = False
    is_started: bool = False
    is_complete: bool = False
    is_ended: bool = False  # by us

    def note(self, message: Message) -> None:
        """What is sent to the visitor."""
        if message["type"] == "http.response.start":
            self.is_started = True
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            self.is_stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
        elif message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)


class Visits:
    """An ASGI application around the page that knows what the page's visitors are still being sent."""

    def __init__(self, page: Application) -> None:
        self.page = page
        self.told_s = -math.inf  # when a visitor was last told how a job ended (of `time.monotonic`)
        self._open: set[_Visit] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.page(scope, receive, send)
            return
        visit = _Visit(asyncio.current_task(), any(part in scope["path"] for part in ENDLESS))

        async def noting(message: Message) -> None:
            visit.note(message)
            await send(message)

        self._open.add(visit)
        try:
            await self.page(scope, receive, noting)
        except asyncio.CancelledError:
            if not visit.is_ended:
                raise
            if visit.is_started and not visit.is_complete:  # an ordinary end, not a broken connection
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._open.discard(visit)
            if visit.is_stream and not visit.endless:
                self.told_s = time.monotonic()

    @property
    def results(self) -> int:
        """Streams of events that end when the jobs that they tell of have ended."""
        return sum(visit.is_stream and not visit.endless for visit in self._open)

    @property
    def answers(self) -> int:
        """Other answers that are under way, such as downloads."""
        return sum(not visit.is_stream and not visit.endless for visit in self._open)

    def end_streams(self) -> None:
        """End all streams of events, which would otherwise keep a server from stopping."""
        for visit in self._open:
            if visit.is_stream and visit.task is not None:
                visit.is_ended = True
                visit.task.cancel()


class Drain:
    """From when a server is told to stop until it may. Times are seconds of one clock."""

    def __init__(self, now: float, most_s: float) -> None:
        self._began = now
        self._deadline = now + most_s
        self._busy = -math.inf

    def over(self, now: float, *, busy: bool, results: int, answers: int, told: float) -> bool:
        """Whether nobody waits for anything any more. `busy`: a video is being made; the others as in `Visits`."""
        if busy:
            self._busy = now
            return False
        if self.is_late(now) or now - max(self._began, self._busy) >= LINGER_MOST_S:
            return True
        if results:
            return False
        quiet_s = now - max(self._busy, told)
        return quiet_s >= LINGER_S and not (answers and quiet_s < math.inf)

    def is_late(self, now: float) -> bool:
        """Whether the time is up, even for a video that is still being made."""
        return now >= self._deadline
