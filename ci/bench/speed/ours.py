"""The app's own way: `app.adapters`, with what was compiled for this model and this size, if there is something."""

from __future__ import annotations

from collections.abc import Callable

from app import adapters
from app.adapters.base import Made
from app.video import Frames
from ci.bench.speed.cases import Case


class Ours:
    """A loaded model. `how`: compiled or eager."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = adapters.load(case.spec, case.folder)
        self.how = "eager"

    def make(self, steps: int, on_step: Callable[[], None]) -> Frames:
        (made,) = self.model.generate([self.case.request(steps)], lambda *_: on_step()).made
        if not isinstance(made, Made):
            raise made
        return made.frames
