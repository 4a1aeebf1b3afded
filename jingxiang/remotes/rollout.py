"""From one version to the next, on any host: start, wait until it is ready, switch, let the old one finish.

Nothing here knows what a version is: a container, or a process. Whatever goes wrong before the end, what served before
serves again, and the error says so.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Protocol

from jingxiang import console
from jingxiang.deploy_plan import BLUE_GREEN, DOWN, RESTORED, DeployError
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.redaction import redact
from jingxiang.remotes.ssh import Answer, Unreachable

TIMES = 2  # that it has to say so in a row
LOOK_S = 0.3
SWITCH_S = 15.0
RESTORE_S = 600.0  # what served before has been ready before: it is given time, whatever the new one was given
TAIL = 20  # lines of a log in a message


@dataclass(frozen=True)
class Life:
    """Whether a version runs; if not, the exit code that it ended with (None: it never ran)."""

    runs: bool
    code: int | None = None


class Site(Protocol):
    """What a host can do with versions."""

    def start(self, version: str) -> None:
        """Have it run; no harm if it does already."""

    def life(self, version: str) -> Life: ...

    def readiness(self, version: str) -> Answer:
        """Its /readyz."""

    def words(self, version: str) -> list[str]:
        """The last lines of its log."""

    def finish(self, version: str) -> None:
        """Tell it to end after what it is doing; returns at once."""

    def end(self, version: str) -> None:
        """End it now."""

    def lead(self, version: str) -> None:
        """Have the proxy lead to it. Raises `JingxiangError` if it does not."""

    def settle(self, version: str) -> None:
        """From now on it is started again by itself, also after the host was."""


@dataclass(frozen=True)
class Step:
    """From `old` (empty: nothing serves) to `new`. `finish_s`: how long `old` may take to end."""

    address: str
    old: str
    new: str
    ready_s: float
    finish_s: float


class Failed(JingxiangError):
    """A version that did not get ready: why, and the last words of its log."""

    def __init__(self, reason: str, words: list[str]) -> None:
        super().__init__(reason)
        self.words = words


def roll(site: Site, step: Step, strategy: str) -> float:
    """Do it; gives the seconds from the start of the new version until it was ready. Raises `DeployError`."""
    if strategy == BLUE_GREEN or not step.old:
        return _beside(site, step)
    return _instead(site, step)


def _beside(site: Site, step: Step) -> float:
    """Both at once: nobody notices."""
    try:
        seconds = _started(site, step)
        site.lead(step.new)
        site.settle(step.new)
    except BaseException as error:
        _undo(site, step, error)
        raise
    if step.old:
        let_finish(site, step.old, step.finish_s)
    return seconds


def _instead(site: Site, step: Step) -> float:
    """One after the other: the proxy says to wait meanwhile, and jobs wait in their store."""
    try:
        let_finish(site, step.old, step.finish_s)
        seconds = _started(site, step)
        site.lead(step.new)
        site.settle(step.new)
    except BaseException as error:
        _undo(site, step, error)
        raise
    return seconds


def _started(site: Site, step: Step) -> float:
    begun = time.monotonic()
    site.start(step.new)
    wait_ready(site, step.new, step.ready_s)
    seconds = time.monotonic() - begun
    console.line("switch", tr("{version} is ready after {seconds:.1f} s", version=step.new, seconds=seconds))
    return seconds


def wait_ready(site: Site, version: str, ready_s: float) -> None:
    """Until it says twice that it is ready. Raises `Failed` when it ends, or takes longer."""
    begun, good, said = time.monotonic(), 0, ""
    while good < TIMES:
        life = site.life(version)
        seconds = time.monotonic() - begun
        if not life.runs:
            reason = tr("it ended with exit code {code} after {seconds:.0f} s", code=life.code, seconds=seconds)
            raise Failed(reason, site.words(version))
        answer = site.readiness(version)
        good = good + 1 if answer.status == 200 else 0
        said = _reason(answer) or said
        if seconds > ready_s and not good:
            text = tr("it was not ready within {seconds:.0f} s", seconds=ready_s)
            raise Failed(f"{text}: {said}" if said else text, site.words(version))
        if good < TIMES:
            time.sleep(LOOK_S)


def let_finish(site: Site, version: str, finish_s: float) -> None:
    """Tell it to end, and wait until the videos that it makes are done; what waits goes on elsewhere."""
    if not site.life(version).runs:
        return
    begun = time.monotonic()
    running = jobs(site.readiness(version))[0]
    if running:
        console.line("finish", tr("{version} finishes {count} videos", version=version, count=running))
    site.finish(version)
    while site.life(version).runs:
        if time.monotonic() - begun > finish_s:
            console.warn(tr("{version} did not end within {seconds:.0f} s: its jobs are begun again", version=version,
                            seconds=finish_s))  # fmt: skip
            site.end(version)
            break
        time.sleep(LOOK_S)
    seconds = time.monotonic() - begun
    console.line("finish", tr("{version} has ended after {seconds:.1f} s", version=version, seconds=seconds))


def jobs(answer: Answer) -> tuple[int | None, int | None]:
    """How many are being made, and how many wait, as /readyz says."""
    state = _state(answer)
    running, queued = state.get("running"), state.get("queued")
    return (running if isinstance(running, int) else None, queued if isinstance(queued, int) else None)


def _state(answer: Answer) -> dict[str, object]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(answer: Answer) -> str:
    return str(_state(answer).get("reason", ""))


def _undo(site: Site, step: Step, error: BaseException) -> None:
    """End the new one, have the old one serve. Raises `DeployError` for what is no other kind of end."""
    lost: JingxiangError | None = None
    try:
        _back(site, step)
    except JingxiangError as problem:
        lost = problem
    if isinstance(error, JingxiangError):
        known = not isinstance(lost, Unreachable)
        raise failure(step, error, "" if lost else step.old, known=known) from error


def _back(site: Site, step: Step) -> None:
    if step.old and site.life(step.old).runs:
        site.lead(step.old)
        site.end(step.new)
        return
    site.end(step.new)  # first: there may be no room for both
    if step.old:
        site.start(step.old)
        site.lead(step.old)
        wait_ready(site, step.old, max(step.ready_s, RESTORE_S))
        site.settle(step.old)


def failure(step: Step, error: JingxiangError, serves: str, *, known: bool = True) -> DeployError:
    """What failed, its last words, what serves (unless that is not known), what to try."""
    words = error.words[-TAIL:] if isinstance(error, Failed) else []
    lines = [tr("{version} is not healthy: {reason}", version=step.new, reason=error.message)]
    lines += [f"       {redact(line)}" for line in words]
    hints = [f"python3 tasks.py deploy-logs {step.address} --failed", *error.hints]
    if serves:
        lines.append("       " + tr("still serving: {version}", version=serves))
    elif known:
        lines.append("       " + tr("nothing is serving now"))
    else:
        lines.append("       " + tr("the host cannot be reached: what serves is not known"))
        hints = [f"python3 tasks.py deploy-status {step.address}", tr("then the same command with --break-lock")]
    return DeployError(RESTORED if serves else DOWN, "\n".join(lines), hints)
