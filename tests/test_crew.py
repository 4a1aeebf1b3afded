"""app.crew: which workers there are; what happens when they die is in e2e/test_crashes.py"""

from __future__ import annotations

import pytest

from app import crew
from jingxiang import gpu


@pytest.mark.parametrize(
    ("visible", "build", "count", "found"),
    [
        (None, "2.13.0", 0, (None,)),
        (None, "2.13.0", 1, (None,)),
        (None, "2.13.0", 3, ("0", "1", "2")),
        (None, "2.13.0+cpu", 3, (None,)),
        ("2, GPU-5", "2.13.0", 4, ("2", "GPU-5")),
        ("2", "2.13.0", 4, (None,)),  # its only worker sees just that one
        ("", "2.13.0", 4, (None,)),
    ],
)
def test_each_card_that_may_be_used_has_a_worker(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, build: str, count: int, found: tuple[str | None, ...]
) -> None:
    monkeypatch.delenv(crew.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(crew.VISIBLE, visible)
    card = gpu.Gpu("H100", "580.1", 80 << 30, 80 << 30, "9.0")
    monkeypatch.setattr(gpu, "detect", lambda: gpu.Gpus((card,) * count))
    monkeypatch.setattr("app.cards.metadata.version", lambda name: build)
    assert crew.cards() == found
