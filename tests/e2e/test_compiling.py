"""A part of a real pipeline, compiled, checked, loaded and run, on the CPU: as on a GPU, but for graphs and kernels"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from app import adapters
from app.adapters import compiled, compiling
from app.adapters.base import Diffusion, Made, Request
from app.artifacts import Shelf
from jingxiang import models as catalog
from tests.peers import system

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = catalog.load(ROOT / catalog.FILE).model("smoke")
FAST = SPEC.preset("fast")
PART = "unet.transformer_in"  # each takes a minute


def test_a_part_that_was_compiled_gives_the_same_video(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.compiler()
    every = compiled.parts
    monkeypatch.setattr(compiled, "parts", lambda pipe: {PART: every(pipe)[PART]})
    monkeypatch.setenv("JINGXIANG_COMPILE", "always")
    for name in (compiled.CACHE, compiled.INDUCTOR):
        monkeypatch.setenv(name, str(tmp_path / "others"))
    shelf = Shelf(tmp_path / "artifacts")
    key = compiling.key(SPEC, models / "smoke", FAST, dtype="fp32")
    assert key is not None
    told: list[tuple[int, int]] = []
    with shelf.making(key), shelf.draft() as into:
        made = compiling.make(
            SPEC, models / "smoke", FAST, dtype="fp32", into=into, tell=lambda *each: told.append(each)
        )
        shelf.put(made, into)
    assert (made, told) == (key, [(1, 1)])
    found = shelf.find(key)
    assert found is not None
    assert found.files == (f"00-{PART}.bin", f"00-{PART}.json")

    model = adapters.load(SPEC, models / "smoke")
    assert isinstance(model, Diffusion)
    assert model.compilation(FAST) == key
    eager = frames(model)
    with shelf.adopting(key):
        model.adopt(found, shelf.scratch())
    assert psutil.Process().children() == [], "nothing waits for something to compile"
    runs = counted(model, monkeypatch)
    assert np.abs(frames(model).astype(int) - eager).max() <= 2
    assert runs == {"itself": 0, "compiled": FAST.steps}
    model.close()


def counted(model: Diffusion, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the part ran, either way."""
    runs = {"itself": 0, "compiled": 0}
    part = part_of(model)
    forward, dispatch = type(part).forward, compiled._Dispatch.__call__

    def itself(module: object, *arguments: object, **named: object) -> object:
        runs["itself"] += module is part  # there are others of its kind
        return forward(module, *arguments, **named)

    def either(*arguments: Any, **named: Any) -> object:
        before = runs["itself"]
        got = dispatch(*arguments, **named)
        runs["compiled"] += runs["itself"] == before
        return got

    monkeypatch.setattr(type(part), "forward", itself)
    monkeypatch.setattr(compiled._Dispatch, "__call__", either)
    return runs


def part_of(model: Diffusion) -> Any:
    return compiled.parts(model.pipe)[PART]


def frames(model: Diffusion) -> np.ndarray:
    picture = Image.radial_gradient("L").convert("RGB")
    (made,) = model.generate([Request(picture, "a cat", FAST, 1)], lambda *_: None).made
    assert isinstance(made, Made)
    return made.frames
