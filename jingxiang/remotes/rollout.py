"""From one version to the next, on any host: start, wait until it is ready, switch, let the old one finish.

Nothing here knows what a version is: a container, or a process. Whatever goes wrong before the end, what served before
serves again, and the error says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jingxiang import console
from jingxiang.deploy_plan import BLUE_GREEN, DOWN, RESTORED, DeployError, command
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.redaction import redact
from jingxiang.remotes.ssh import Answer, Unreachable

READY = 200  # what /readyz says of one that takes jobs
HEARD_S = 3.0  # until one that was told to end says that it does; the app takes a tenth of a second
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

    def place(self, version: str) -> str:
        """Where it runs, for a message: the host, and what it is called there."""

    def finish(self, version: str) -> None:
        """Tell it to end after what it is doing, and not to be started again; returns at once."""

    def end(self, version: str) -> None:
        """End it now."""

    def lead(self, version: str) -> None:
        """Have the proxy lead to it. Raises `JingxiangError` if it does not."""

    def settle(self, version: str) -> None:
        """From now on it is started again by itself when it dies; by docker also when the host was."""


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
    """Do it; gives the seconds from the start of the new version until it was ready. Raises `DeployError`.

    In blue/green the old one goes on: whoever has written down that the new one serves lets it finish.
    """
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
    return seconds


def _instead(site: Site, step: Step) -> float:
    """One after the other: the proxy says to wait meanwhile, and jobs wait in their store."""
    is_told = False
    try:
        if not _finishes(site, step.old):
            is_told = True  # before, because an interrupt may come between both
            site.finish(step.old)
        _await_end(site, step.old, step.finish_s)
        seconds = _started(site, step)
        site.lead(step.new)
        site.settle(step.new)
    except BaseException as error:
        _undo(site, step, error, is_told=is_told)
        raise
    return seconds


def again(site: Site, step: Step, restore: Callable[[], None]) -> None:
    """Have the version that serves, `old` and `new`, serve as it is wanted now, which may be elsewhere. `restore`: what
    makes it serve as it did. Raises `DeployError`."""
    try:
        wait_ready(site, step.old, step.ready_s)
    except JingxiangError as error:
        is_known = not isinstance(error, Unreachable)
        raise failure(step, error, "", place=site.place(step.old), is_known=is_known) from error
    try:
        site.lead(step.old)
        site.settle(step.old)  # whoever led to it may have been cut off before that
    except BaseException as error:
        restore()
        _undo(site, step, error)
        raise


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
        good = good + 1 if answer.status == READY else 0
        said = _reason(answer) or said
        if seconds > ready_s and not good:
            text = tr("it was not ready within {seconds:.0f} s", seconds=ready_s)
            raise Failed(f"{text}: {said}" if said else text, site.words(version))
        if good < TIMES:
            time.sleep(LOOK_S)


def let_finish(site: Site, version: str, finish_s: float) -> None:
    """Tell it to end, and wait until the videos that it makes are done; what waits goes on elsewhere.

    It is told so also when it does not run: it may be about to be started again.
    """
    if not _finishes(site, version):
        site.finish(version)
    _await_end(site, version, finish_s)


def is_finishing(answer: Answer) -> bool:
    """Whether a version has been told to end, as its /readyz says. A second time would end it at once."""
    return _state(answer).get("status") == "draining"


def _finishes(site: Site, version: str) -> bool:
    answer = site.readiness(version) if site.life(version).runs else Answer(0, {}, b"")
    running = jobs(answer)[0]
    if running:
        console.line("finish", tr("{version} finishes {count} videos", version=version, count=running))
    return is_finishing(answer)


def _await_end(site: Site, version: str, finish_s: float) -> None:
    begun = time.monotonic()
    if not site.life(version).runs:
        return
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


def _undo(site: Site, step: Step, error: BaseException, *, is_told: bool = False) -> None:
    """End the new one, have the old one serve. Raises `DeployError` for what is no other kind of end. `is_told`: the
    old one was told to end."""
    lost: JingxiangError | None = None
    try:
        _back(site, step, is_told=is_told)
    except JingxiangError as problem:
        lost = problem
    if isinstance(error, JingxiangError):
        is_known = not isinstance(lost, Unreachable)
        serves = "" if lost else step.old
        raise failure(step, error, serves, place=site.place(step.new), is_known=is_known) from error


def _back(site: Site, step: Step, *, is_told: bool) -> None:
    if step.old and site.life(step.old).runs:
        if not _ends(site, step.old, is_told=is_told):
            site.lead(step.old)
            _discard(site, step)
            return
        console.line("finish", tr("{version} ends first, and is started again then", version=step.old))
        _await_end(site, step.old, step.finish_s)
    _discard(site, step)  # first: there may be no room for both
    if step.old:
        site.start(step.old)
        site.lead(step.old)
        wait_ready(site, step.old, max(step.ready_s, RESTORE_S))
        site.settle(step.old)


def _ends(site: Site, version: str, *, is_told: bool) -> bool:
    """Whether one that runs is about to end. The word may have been cut off on its way: one that still takes jobs a
    while after that has not got it."""
    begun = time.monotonic()
    while site.life(version).runs:
        answer = site.readiness(version)
        if is_finishing(answer) or not is_told:
            return is_finishing(answer)
        if time.monotonic() - begun > HEARD_S:
            return answer.status != READY
        time.sleep(LOOK_S)
    return True


def _discard(site: Site, step: Step) -> None:
    """End the new one. What serves does not depend on it."""
    if step.new == step.old:
        return
    try:
        site.end(step.new)
    except JingxiangError as error:
        text = tr("{place}: it could not be ended: {reason}", place=site.place(step.new), reason=error.message)
        console.warn(text)


def failure(step: Step, error: JingxiangError, serves: str, *, place: str = "", is_known: bool = True) -> DeployError:
    """What failed and where, its last words, what serves (unless that is not known), what to try."""
    words = error.words[-TAIL:] if isinstance(error, Failed) else []
    text = (
        tr("{version} is not healthy: {reason}", version=step.new, reason=error.message)
        if isinstance(error, Failed)
        else tr("{version} could not be led to: {reason}", version=step.new, reason=error.message)
    )
    lines = [f"{place}: {text}" if place else text]
    lines += [f"       {redact(line)}" for line in words]
    hints = [command("deploy-logs", step.address, "--failed"), *error.hints]
    if serves:
        lines.append("       " + tr("still serving: {version}", version=serves))
    elif is_known:
        lines.append("       " + tr("nothing is serving now"))
    else:
        lines.append("       " + tr("the host cannot be reached: what serves is not known"))
        hints = [command("deploy-status", step.address), tr("then the same command with --break-lock")]
    return DeployError(RESTORED if serves else DOWN, "\n".join(lines), hints)
