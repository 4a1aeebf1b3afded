"""What our programs that use an SDK have in common: events on stdout, errors as events, an orderly end.

They run in a Python of their own, see `remotes.sdk`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

EVENTS = os.fdopen(os.dup(1), "w")  # what an SDK prints by itself goes to stderr


class Problem(Exception):
    """What the caller is told: of which kind, and what belongs to it."""

    def __init__(self, kind: str, **more: object) -> None:
        super().__init__(kind)
        self.kind, self.more = kind, more


def say(event: str, **more: object) -> None:
    """Raises `BrokenPipeError` where nobody listens any more."""
    print(json.dumps({"event": event, **more}, default=str), file=EVENTS, flush=True)


def tell(event: str, **more: object) -> None:
    """The same, but going on: what was begun is to be ended, whoever listens."""
    with contextlib.suppress(BrokenPipeError):
        say(event, **more)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whoever wants us to end waits for the end of this."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked:
            signal.raise_signal(signal.SIGTERM)


def main(
    actions: Mapping[str, Callable[..., None]],
    prepared: Callable[[dict[str, Any]], contextlib.AbstractContextManager[tuple[Any, ...]]],
    explained: Callable[[Exception], Problem | None],
) -> NoReturn:
    """Do what the JSON object on stdin asks for: its `action`. `prepared`: gives what all actions get, and takes what
    it needs for that out of the object; `explained`: what an error of the SDK comes to, None for one that is not."""
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _end)
    job: dict[str, Any] = json.load(sys.stdin)
    act = actions[job.pop("action")]
    try:
        with prepared(job) as common:
            act(*common, **job)
    except BrokenPipeError:  # whoever started us has gone, which is how the following of a log ends
        os._exit(0)
    except Exception as error:
        problem = error if isinstance(error, Problem) else explained(error)
        if problem is None:
            raise
        tell("error", kind=problem.kind, **problem.more)
        sys.exit(1)
    sys.exit(0)


def _end(number: int, _: object) -> NoReturn:
    """Once: what is to be undone then, is."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)
