"""A host that is made up: versions that get ready or do not, and what was asked of it in which order."""

from __future__ import annotations

from dataclasses import dataclass, field

from jingxiang.errors import JingxiangError
from jingxiang.remotes.rollout import Life
from jingxiang.remotes.ssh import Answer

READY = Answer(200, {}, b'{"status": "ready", "running": 0, "queued": 0}')
DRAINING = Answer(503, {}, b'{"status": "draining", "running": 1}')
LOADING = Answer(503, {}, b'{"status": "loading", "reason": "no weights"}')


@dataclass
class Version:
    """`answers`: of /readyz, the last one for ever; `code`: it ends with that as soon as it has been started."""

    answers: list[Answer] = field(default_factory=lambda: [READY])
    code: int | None = None
    runs: bool = False
    settled: bool = False
    finishes: bool = False
    ends_after: int = 1


class MemorySite:
    """See `rollout.Site`. `done`: what was asked of it; `leads`: where the proxy leads to."""

    def __init__(self, **versions: Version) -> None:
        self.known = versions
        self.done: list[str] = []
        self.leads = next((name for name, each in versions.items() if each.runs), "")
        self.refuses = ""

    def start(self, version: str) -> None:
        self.done.append(f"start {version}")
        self.known[version].runs = self.known[version].code is None
        self.known[version].finishes = False

    def life(self, version: str) -> Life:
        found = self.known[version]
        if found.runs and found.finishes:
            found.ends_after -= 1
            found.runs = found.ends_after >= 0
        return Life(found.runs, found.code)

    def readiness(self, version: str) -> Answer:
        if self.known[version].finishes:
            return DRAINING
        answers = self.known[version].answers
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def words(self, version: str) -> list[str]:
        return [f"line {number}" for number in range(30)]

    def place(self, version: str) -> str:
        return f"gpu-1, container {version}"

    def finish(self, version: str) -> None:
        self.done.append(f"finish {version}")
        self.known[version].finishes = True

    def end(self, version: str) -> None:
        self.done.append(f"end {version}")
        self.known[version].runs = False

    def lead(self, version: str) -> None:
        self.done.append(f"lead {version}")
        if self.refuses == version:
            raise JingxiangError("it is broken")
        self.leads = version

    def settle(self, version: str) -> None:
        self.known[version].settled = True
