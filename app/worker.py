"""The worker: a process of its own that holds the model, so that a crash in it does not take the page down.

Reads jobs from stdin and writes events to stdout, one JSON object a line:

    -> {"id": 1, "image": PATH, "prompt": …, "preset": {…}, "seed": 7, "output": PATH, "language": "en"}
    <- {"event": "ready"} | {"event": "failed", "message": …}              the model is loaded, or cannot be
    <- {"event": "step", "id": 1, "done": 3, "of": 10}
    <- {"event": "done", "id": 1, "seconds": 1.2, "unread": …} | {"event": "error", "id": 1, "message": …}

`unread` is the end of the prompt that was too long for the model.

It ends when its stdin does: it never outlives the app.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jingxiang.errors import JingxiangError
from jingxiang.models import ModelSpec

Send = Callable[[dict[str, Any]], None]


def main(spec: ModelSpec, folder: Path, prepare: Callable[[], None]) -> int:
    """Prepare and load the model, then do one job after another until stdin ends."""
    # What reaches the whole group of processes reaches the app, too. It ends us: with Ctrl-C at once, with SIGTERM when
    # the video is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    send = _private_stdout()
    jobs = _jobs()
    try:
        prepare()
        from app import adapters

        model = adapters.load(spec, folder)
    except JingxiangError as error:
        send({"event": "failed", "message": error.message})
        return 1
    send({"event": "ready"})
    while True:
        _do(model, jobs.get(), send)


def _do(model: Any, job: dict[str, Any], send: Send) -> None:
    """One job: a picture in, a video file out. Whatever goes wrong is the job's error, not the worker's end."""
    from app import generation
    from app.texts import speaking

    start = time.monotonic()
    number = job["id"]

    def on_step(done: int, of: int) -> None:
        send({"event": "step", "id": number, "done": done, "of": of})

    try:
        order = generation.Order.from_json(job)
        with speaking(order.language):
            unread = generation.run(model, order, on_step)
    except JingxiangError as error:
        send({"event": "error", "id": number, "message": error.message})
    except Exception as error:  # any library may raise anything; the user must see it and the next job must run
        import traceback

        traceback.print_exc()
        send({"event": "error", "id": number, "message": f"{type(error).__name__}: {error}"})
    else:
        send({"event": "done", "id": number, "seconds": round(time.monotonic() - start, 2), "unread": unread})


def _private_stdout() -> Send:
    """A function that writes events to the real stdout; what libraries print goes to stderr instead."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def send(event: dict[str, Any]) -> None:
        events.write(json.dumps(event, ensure_ascii=False) + "\n")
        events.flush()

    return send


def _jobs() -> queue.Queue[dict[str, Any]]:
    """Jobs as they arrive. At the end of stdin the process ends at once, even in the middle of a job."""
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True, name="jobs").start()
    return jobs
