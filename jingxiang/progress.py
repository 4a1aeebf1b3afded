"""How far a fetch is: one bar that moves on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque

from jingxiang import console
from jingxiang.fetch.schedule import Progress
from jingxiang.language import tr

BAR_COLUMNS = 21
REDRAW_S = 0.1
LINE_S = 5.0
SPEED_S = 5.0  # over which the speed is taken
CLEAR = "\r\033[K"


class Bar:
    """Shows what `Engine.run` reports; a context, so that a bar never stays half drawn in front of a message."""

    def __init__(self, verb: str = "fetch") -> None:
        self._verb = verb
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown_at = time.monotonic() - (LINE_S if self._terminal else 0.0)
        self._seen: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()

    def listed(self, done: int, total: int) -> None:
        """Lists of mirrors that have been read."""
        if self._terminal:
            text = tr("lists of the mirrors: {done}/{total}", done=done, total=total)
            self._draw(f"{console.pad('', console.VERB_COLUMNS)}{text}" if done < total else "")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        self._seen.append((now, progress.done_bytes))
        while now - self._seen[0][0] > SPEED_S and len(self._seen) > 2:
            self._seen.popleft()
        if now - self._shown_at < (REDRAW_S if self._terminal else LINE_S):
            return
        self._shown_at = now
        if self._terminal:
            self._draw(self._bar(progress))
        else:
            console.line(self._verb, self._text(progress))

    def _draw(self, text: str) -> None:
        sys.stderr.write(CLEAR + fitted(text, _columns() - 1))
        sys.stderr.flush()

    def _bar(self, progress: Progress) -> str:
        part = progress.done_bytes / progress.total_bytes if progress.total_bytes else 0.0
        filled = min(BAR_COLUMNS, int(part * BAR_COLUMNS))
        bar = "█" * filled + "░" * (BAR_COLUMNS - filled)
        return f"{console.pad(tr(self._verb), console.VERB_COLUMNS)}{bar}  {self._text(progress)}"

    def _text(self, progress: Progress) -> str:
        done, total = console.size(progress.done_bytes), console.size(progress.total_bytes)
        words = [f"{done} / {total}"]
        if progress.total_files:
            words.append(tr("{done}/{total} files", done=progress.done_files, total=progress.total_files))
        speed = self._speed()
        if speed > 0:
            left_s = (progress.total_bytes - progress.done_bytes) / speed
            words += [f"{speed / 1e6:.1f} MB/s", tr("eta {time}", time=f"{int(left_s) // 60}:{int(left_s) % 60:02d}")]
        if progress.elsewhere:
            words.append(tr("{count} files by another process", count=progress.elsewhere))
        if progress.name:
            words.append(f"{progress.name} {progress.part:.0%}")
        return "  ".join(words)

    def _speed(self) -> float:
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return max(0.0, (after - before) / (end - start)) if end > start else 0.0


def _columns() -> int:
    """Of the terminal that stderr is: stdout, which others ask, may be a file."""
    return os.get_terminal_size(sys.stderr.fileno()).columns or shutil.get_terminal_size().columns


def fitted(text: str, width: int) -> str:
    """As much of a text as a line of a terminal holds: a longer one would scroll."""
    while console.columns(text) > max(width, 1):
        text = text[:-1]
    return text
