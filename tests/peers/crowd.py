"""People who wait for videos, through the HTTP API of a running app: each follows a job as a browser does."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

ENDS = ("done", "failed", "cancelled")


def post(url: str, photo: bytes, **form: object) -> str:
    """Hand in a job, by default a short one; gives its number."""
    data = {name: str(value) for name, value in ({"prompt": "a cat", "preset": "fast"} | form).items()}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as asked:
        answer = asked.post("/api/jobs", files={"image": ("photo.jpg", photo)}, data=data)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def job(url: str, number: str) -> dict[str, Any]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as asked:
        found: dict[str, Any] = asked.get(f"/api/jobs/{number}").json()
    return found


@dataclass
class Crowd:
    """`count` clients, each with one event stream, which is opened again when it has ended before the job."""

    url: str
    numbers: list[str]
    count: int = 20
    errors: list[str] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for each in range(self.count):
            thread = threading.Thread(target=self._follow, args=(self.numbers[each % len(self.numbers)],))
            thread.start()
            self._threads.append(thread)

    def join(self, seconds: float = 120) -> None:
        for thread in self._threads:
            thread.join(seconds)

    def _follow(self, number: str) -> None:
        state = ""
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as asked:
            while state not in ENDS:
                try:
                    with asked.stream("GET", f"/api/jobs/{number}/events") as answer:
                        if answer.status_code != 200:
                            self.errors.append(str(answer.status_code))
                            return
                        for line in answer.iter_lines():
                            if line.startswith("data: {"):
                                state = json.loads(line.removeprefix("data: "))["state"]
                except httpx.HTTPError as problem:
                    self.errors.append(repr(problem))
                    return
        self.ended[state] += 1
