"""app.calibrate"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from app import calibrate, cards, memory
from app.cards import Space
from app.memory import Measurement
from jingxiang import models as catalog

ROOT = Path(__file__).resolve().parent.parent
SPEC = catalog.load(ROOT / "app" / "models.toml").model("smoke")


def test_each_run_is_recorded_and_said(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[Measurement] = []
    found = calibrate.calibrate(SPEC, models, as_json=False, record=kept.append)
    assert found == kept
    assert {(each.gpu, each.model, each.dtype) for each in found} == {("cpu", "smoke", "fp32")}
    assert {each.rung for each in found} == {"full", "frames"}
    assert {(each.width, each.batch, each.steps) for each in found if each.rung == "full"} == {
        (64, 1, 2), (128, 1, 2), (64, 1, 6), (128, 1, 6), (64, 2, 2)
    }  # fmt: skip
    assert all(each.seconds > 0 for each in found)
    # What a small one takes may be less than what libraries give back meanwhile.
    assert all(each.peak_bytes > 0 for each in found if each.width == 128)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found)
    assert lines[0].startswith("64x64, 8 frames, 1 at once, full: 0.")
    preset = SPEC.preset("standard")
    assert memory.seconds(found, preset, gpu="cpu", model="smoke", dtype="fp32") is not None


def test_programs_get_one_object(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrate.calibrate(SPEC, models, as_json=True, record=lambda measurement: None)
    assert json.loads(capsys.readouterr().out) == {"measurements": [asdict(each) for each in found]}


def test_what_would_not_fit_is_not_tried(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cards, "space", lambda uuid: Space(False, 1 << 30, 0))
    monkeypatch.setattr(memory, "plan", _refuse)
    assert calibrate.calibrate(SPEC, models, as_json=False, record=lambda measurement: None) == []
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "skipped  128x128, 16 frames, 1 at once: not enough memory: it needs 2 B, and 1 B can be had" in shown.err


def _refuse(*arguments: object, **named: object) -> memory.Refusal:
    preset = SPEC.preset("fast")
    return memory.Refusal(2, 1, 3, (preset, 1), None, ())
