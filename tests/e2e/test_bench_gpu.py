"""The benches on a GPU that start the app or its workers, tried on the CPU with the smoke model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.e2e


def found(module: str, *arguments: str) -> dict[str, Any]:
    """The object that a bench prints."""
    argv = [sys.executable, "-m", f"ci.bench.{module}", *arguments, "--small", "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_two_workers_make_the_jobs_of_one_queue(tmp_path: Path) -> None:
    bench = found("gpu", "--workers", "--folder", str(tmp_path))
    (figure,) = bench["figures"]
    assert (bench["bench"], figure["name"], figure["bar"]) == ("workers", "workers_ratio", 1.9)
    assert set(figure["peers"]) == {"videos an hour, one worker", "2 workers"}
    assert 0.2 < figure["value"] < 3
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_each_way_is_busy_with_the_same_kinds_of_work(tmp_path: Path) -> None:
    bench = found("gpu", "--profile", "--model", "smoke", "--folder", str(tmp_path))
    (figure,) = bench["figures"]
    assert (bench["bench"], figure["name"], len(figure["peers"])) == ("profile", "gpu_ms_per_step", 4)
    of = {way: {each["name"] for each in bench["kinds"] if each["way"] == way} for way in ("ours", "stock fp32")}
    assert {"attention", "norms", "convolutions and matrix products"} <= of["ours"] & of["stock fp32"]


def test_a_start_has_its_phases_in_their_order(tmp_path: Path) -> None:
    bench = found("start", "--gpu", "--folder", str(tmp_path))
    values = {each["name"]: each["value"] for each in bench["figures"]}
    assert 0 < values["ready_s"] < values["first_video_s"]
    assert 0.1 < values["first_video_without_artifacts"] < 10
    phases = [(each["process"], each["phase"]) for each in bench["phases"]]
    assert [each for each in phases if each[0] == "worker"] == [
        ("worker", "the process is started"),
        ("worker", "the log is open"),
        *sorted(
            [("worker", "PyTorch and diffusers are imported"), ("worker", "the weights are on the device")],
            key=phases.index,  # either may be first
        ),
        ("worker", "the pipeline is complete"),
        ("worker", "the model can be used"),
        ("worker", "the first video is done"),
    ]
    assert phases.index(("server", "the port answers")) < phases.index(("server", "/readyz says that all is ready"))
    assert [each["s"] for each in bench["phases"]] == sorted(each["s"] for each in bench["phases"])
