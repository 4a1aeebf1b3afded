"""The app's own way: `app.adapters`, with what was compiled for this model, this size and this card."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from types import TracebackType

from app import adapters
from app.adapters.base import Made
from app.artifacts import Shelf
from app.video import Frames
from ci.bench.speed.cases import Case

AT_ONCE = 3  # models that are compiled at the same time, each by several processes of its own


class Ours:
    """A loaded model. `how`: compiled, or eager where there is nothing on the shelf for it."""

    def __init__(self, case: Case, shelf: Path) -> None:
        self.case = case
        self.model = adapters.load(case.spec, case.folder)
        key = self.model.compilation(case.preset, 1)
        found = Shelf(shelf).find(key) if key else None
        if found:
            self.model.adopt(found)
        self.how = "compiled" if found else "eager"

    def make(self, steps: int, on_step: Callable[[], None]) -> Frames:
        """The video's frames. Raises `BrokenOutput`."""
        (made,) = self.model.generate([self.case.request(steps)], lambda *_: on_step()).made
        if not isinstance(made, Made):
            raise made
        return made.frames


class Workshop:
    """Compiles what is not on the shelf yet, in processes of its own."""

    def __init__(self, shelf: Path) -> None:
        self.shelf = shelf
        self._pool = ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn"))
        self._begun: dict[str, Future[str]] = {}

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, case: Case) -> None:
        self._begun[case.name] = self._pool.submit(_compiled, case, self.shelf)

    def end(self) -> list[str]:
        """Wait for all; what came of each."""
        said = []
        for name, each in self._begun.items():
            error = each.exception()
            said.append(
                f"{name}: {each.result() if error is None else f'not compiled: {type(error).__name__}: {error}'}"
            )
        return said


def _compiled(case: Case, folder: Path) -> str:
    from app.adapters import compiling

    shelf = Shelf(folder)
    start = time.monotonic()
    model = adapters.load(case.spec, case.folder)
    key, dtype = model.compilation(case.preset, 1), model.dtype_name
    model.close()
    if key is None:
        return "nothing to be compiled here"
    found = shelf.find(key)
    if found is None:
        with shelf.draft() as draft:
            made = compiling.make(case.spec, case.folder, case.preset, dtype=dtype, into=draft, tell=lambda *_: None)
            found = shelf.put(made, draft)
    return f"compiled in {time.monotonic() - start:.0f} s, {found.size_bytes / 1e6:.0f} MB"
