"""app.drain"""

from __future__ import annotations

import asyncio
import math
from collections.abc import MutableMapping
from typing import Any

from app.drain import LINGER_MOST_S, LINGER_S, Drain, Receive, Scope, Send, Visits

BEGAN = 1000.0
MOST_S = 60.0


def over(drain: Drain, now: float, *, busy: bool = False, results: int = 0, answers: int = 0, told: float = -math.inf
         ) -> bool:  # fmt: skip
    return drain.over(BEGAN + now, busy=busy, results=results, answers=answers, told=told)


def test_with_nothing_to_wait_for_it_is_over_at_once_whatever_else_is_being_answered() -> None:
    assert over(Drain(BEGAN, MOST_S), 0)
    assert over(Drain(BEGAN, MOST_S), 0, answers=3)


def test_it_is_not_over_while_a_video_is_made_nor_before_its_page_has_had_time_to_fetch_it() -> None:
    drain = Drain(BEGAN, MOST_S)
    assert [over(drain, now, busy=True) for now in (0, 5, 10)] == [False, False, False]
    assert not over(drain, 10.1, results=1)  # the page has not been told yet
    told = BEGAN + 10.5
    assert not over(drain, 11, told=told)
    assert not over(drain, 14, told=told, answers=1)  # the file is being downloaded
    assert over(drain, 14.5, told=told)


def test_who_was_told_just_before_it_began_has_time_to_fetch_the_video() -> None:
    drain = Drain(BEGAN, MOST_S)
    assert not over(drain, 0, told=BEGAN - 0.1)
    assert over(drain, LINGER_S, told=BEGAN - 0.1)


def test_a_download_or_a_stream_that_never_ends_does_not_hold_it_for_ever() -> None:
    drain = Drain(BEGAN, MOST_S)
    assert not over(drain, 0, results=1)
    assert not over(drain, LINGER_MOST_S - 1, results=1)
    assert over(drain, LINGER_MOST_S, results=1, answers=1)
    busy = Drain(BEGAN, 1000)
    assert not over(busy, 500, busy=True)
    assert not over(busy, 500 + LINGER_MOST_S - 1, results=1)
    assert over(busy, 500 + LINGER_MOST_S, results=1)


def test_after_its_time_it_is_late_and_over_unless_a_video_is_being_made() -> None:
    drain = Drain(BEGAN, MOST_S)
    assert not drain.is_late(BEGAN + MOST_S - 1)
    assert drain.is_late(BEGAN + MOST_S)
    assert not over(drain, MOST_S, busy=True)
    assert over(drain, MOST_S + 0.1, results=1)


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers by its path; what is not a file is a stream of events without an end."""
    is_file = scope["path"] == "/file"
    kind = b"video/mp4" if is_file else b"text/event-stream; charset=utf-8"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", kind)]})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await asyncio.Event().wait()


def test_visits_tell_streams_of_results_from_heartbeats_and_downloads_and_end_the_streams() -> None:
    sent: dict[str, list[MutableMapping[str, Any]]] = {}

    async def main() -> None:
        visits = Visits(page)

        async def visit(path: str) -> None:
            async def send(message: MutableMapping[str, Any]) -> None:
                sent.setdefault(path, []).append(message)

            async def receive() -> MutableMapping[str, Any]:
                raise AssertionError

            await visits({"type": "http", "path": path}, receive, send)

        paths = ("/gradio_api/queue/data", "/gradio_api/heartbeat/abc", "/file")
        tasks = {path: asyncio.create_task(visit(path)) for path in paths}
        await asyncio.sleep(0)
        assert (visits.results, visits.answers, visits.told_s) == (1, 1, -math.inf)
        visits.end_streams()
        await asyncio.wait(tasks.values(), timeout=0.1)
        # both streams have an ordinary end; the download is not touched
        assert [tasks[path].done() and tasks[path].exception() is None for path in paths] == [True, True, False]
        assert [sent[path][-1].get("more_body") for path in paths] == [None, None, True]
        assert (visits.results, visits.answers) == (0, 1)
        assert visits.told_s > 0
        tasks["/file"].cancel()  # by the server, not by us: it stays cancelled
        await asyncio.wait(tasks.values())
        assert tasks["/file"].cancelled()
        assert visits.answers == 0

    asyncio.run(main())
