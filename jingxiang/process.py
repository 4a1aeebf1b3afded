"""The only place that starts other programs. Arguments are lists; secrets travel in the environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from jingxiang.errors import JingxiangError
from jingxiang.language import tr

TAIL_LINES = 15
LOOK_S = 0.02


@dataclass(frozen=True)
class Finished:
    """A program that has ended: its exit code (negative: the signal) and what it printed, if that was kept."""

    code: int
    stdout: str
    stderr: str

    @property
    def tail(self) -> str:
        """The last lines that it wrote, for a message."""
        return "\n".join((self.stderr.strip() or self.stdout.strip()).splitlines()[-TAIL_LINES:])


class ProcessFailed(JingxiangError):
    """A program ended with another code than 0."""

    def __init__(self, name: str, finished: Finished) -> None:
        self.finished = finished
        text = tr("{name} ended with exit code {code}", name=name, code=finished.code)
        super().__init__(f"{text}\n{finished.tail}" if finished.tail else text)


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    show: bool = False,
    timeout_s: float | None = None,
    given: str = "",
) -> Finished:
    """Run to the end. `show` sends both of its outputs to our stderr instead of keeping them; `given`: what it reads.

    A program that cannot be started, or outlasts `timeout_s`, counts as ended with 127 or 124, as in a shell.
    """
    pipe: int | IO[str] = 2 if show else subprocess.PIPE
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, env=env, cwd=cwd, input=given, stdout=pipe, stderr=pipe, text=True, errors="replace",
            timeout=timeout_s, check=False,
        )  # fmt: skip
    except OSError as error:
        return Finished(127, "", f"{words[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Finished(124, "", tr("{name}: no answer within {seconds} s", name=words[0], seconds=timeout_s))
    return Finished(done.returncode, done.stdout or "", done.stderr or "")


def check(argv: Sequence[str | Path], *, name: str, **options: object) -> Finished:
    """Like `run`, and an error if it did not end with 0. `name` is what the error calls it."""
    finished = run(argv, **options)  # type: ignore[arg-type]
    if finished.code:
        raise ProcessFailed(name, finished)
    return finished


@contextlib.contextmanager
def beside(
    argv: Sequence[str | Path], *, until: Callable[[], bool], timeout_s: float, held: bool = False
) -> Iterator[str]:
    """Have a program run beside us, and end it afterwards. Gives "" when `until` says that it has begun to work, else
    why it has not within so many seconds. One that is `held` reads from us, and so sees when we are killed."""
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            reads = subprocess.PIPE if held else subprocess.DEVNULL
            child = subprocess.Popen(words, stdin=reads, stdout=subprocess.DEVNULL, stderr=said)
        except OSError as error:
            yield f"{words[0]}: {error.strerror}"
            return
        try:
            end = time.monotonic() + timeout_s
            while not until() and child.poll() is None and time.monotonic() < end:
                time.sleep(LOOK_S)
            said.seek(0)
            if until() and child.poll() is None:
                yield ""
            elif child.poll() is None:
                yield tr("{name}: no answer within {seconds} s", name=words[0], seconds=timeout_s)
            else:
                yield Finished(child.returncode, "", said.read()).tail or f"{words[0]}: {child.returncode}"
        finally:
            child.terminate()
            child.wait()
            if child.stdin:
                child.stdin.close()


@contextlib.contextmanager
def fed(argv: Sequence[str | Path], *, name: str) -> Iterator[IO[bytes]]:
    """Write what a program reads. Raises `ProcessFailed` if it then does not end with 0, or ends before."""
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as child:
            assert child.stdin is not None
            try:
                with contextlib.suppress(BrokenPipeError):  # its own words say more
                    yield child.stdin
                    child.stdin.close()
            except BaseException:
                child.kill()
                raise
        said.seek(0)
        if child.returncode:
            raise ProcessFailed(name, Finished(child.returncode, "", said.read()))


def lines(argv: Sequence[str | Path], *, name: str, given: str) -> Iterator[str]:
    """What a program prints, line by line as it does; `given`: what it reads. It is ended when nobody listens any more.
    Raises `ProcessFailed`, with `name`, when it ends with another code than 0.

    Ctrl-C, or whatever ends us, has it told to end (SIGTERM) and its last lines come, too, before that is raised; a
    second one kills it. It has a session of its own: a terminal would tell it at once, and more than once.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        words = [str(word) for word in argv]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, errors="replace",
            start_new_session=True,
        ) as child:  # fmt: skip
            assert child.stdin
            assert child.stdout
            try:
                with _first(child), contextlib.suppress(BrokenPipeError):  # it has ended already; why, it says itself
                    child.stdin.write(given)
                    child.stdin.close()
                    for line in child.stdout:
                        yield line.rstrip("\n")
            except BaseException:
                child.terminate()
                raise
        if child.returncode:
            said.seek(0)
            raise ProcessFailed(name, Finished(child.returncode, "", said.read()))


@contextlib.contextmanager
def _first(child: subprocess.Popen[str]) -> Iterator[None]:
    """A signal that would end us ends the program first, and then us."""
    if threading.current_thread() is not threading.main_thread():  # the only one that signals come to
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def told(number: int, _: object) -> None:
        if not came:
            came.append(number)
            child.terminate()
            return
        came.clear()
        child.kill()
        restore()
        signal.raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, told)
    try:
        yield
    finally:
        restore()
        if came:
            signal.raise_signal(came[0])


def replace(argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> NoReturn:
    """Become another program: it gets our terminal, our signals and our exit code."""
    words = [str(word) for word in argv]
    os.execve(words[0], words, dict(os.environ if env is None else env))
