"""app.doctor: the report of a container, and of one where nothing is as it should be"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from app import cgroups, doctor, gpu
from app.artifacts import Key, Shelf
from app.cgroups import Allowance, Memory
from app.doctor import Asked, Finding, ProblemsFound
from app.gpu import Cuda, Surroundings

ROOT = Path(__file__).resolve().parent.parent
CPU = Finding("gpu", "note", "torch 2.13.0+cpu is a CPU build: videos are made without a GPU")


@pytest.fixture(autouse=True)
def _no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has; gpu.py's own tests are in test_app_gpu.py."""
    monkeypatch.setattr(gpu, "ask", lambda: Cuda("2.13.0+cpu", ""))
    monkeypatch.setattr(gpu, "surroundings", lambda: Surroundings("", False))


def report(capsys: pytest.CaptureFixture[str], asked: Asked) -> dict[str, list[Finding]]:
    """The findings by subject."""
    try:
        doctor.doctor(asked, as_json=True)
    except ProblemsFound:
        found = json.loads(capsys.readouterr().out)["findings"]
        assert "problem" in {each["state"] for each in found}
    else:
        found = json.loads(capsys.readouterr().out)["findings"]
        assert "problem" not in {each["state"] for each in found}
    subjects: dict[str, list[Finding]] = {}
    for each in found:
        subjects.setdefault(each["subject"], []).append(Finding(**each))
    return subjects


def test_what_is_compiled_for_the_model_is_listed(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baked, own = Shelf(tmp_path / "baked"), Shelf(tmp_path / "own")
    key = Key("smoke", "sm_90", "2.13.0", "13.0", "c0de", 64, 64, 8, "fp16")
    others: tuple[dict[str, Any], ...] = {"width": 128}, {"architecture": "sm_80"}, {"model": "svd-xt"}
    for shelf, changes in zip((own, baked, own, baked), ({}, *others), strict=True):
        with shelf.draft() as into:
            (into / "part").write_bytes(bytes(1000))
            shelf.put(replace(key, **changes), into)
    found = report(capsys, Asked("smoke", models, tmp_path, (own.folder, baked.folder)))["compiled"]
    assert found == [
        Finding("compiled", "ok", "64x64x8 (sm_80), 1.0 kB"),
        Finding("compiled", "ok", "128x64x8, 64x64x8 (sm_90), 2.0 kB"),
    ]


def test_a_container_in_which_all_is_well(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, Asked("smoke", models, tmp_path))
    assert list(found) == ["python", "system", "memory", "gpu", "model", "outputs", "temporary"]
    assert found["python"] == [Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")]
    assert platform.machine() in found["system"][0].text
    assert found["gpu"] == [CPU]
    (model,) = found["model"]
    assert (model.state, model.text.startswith("smoke: whole, 2.3 MB"), model.fix) == ("ok", True, "")
    assert model.text.endswith(" (the one that is used)")
    assert (found["outputs"][0].state, found["outputs"][0].fix) == ("ok", "")


def test_it_is_a_table_on_stderr_in_the_user_s_language(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JINGXIANG_LANG", "zh")
    doctor.doctor(Asked("smoke", models, tmp_path), as_json=False)
    out, err = capsys.readouterr()
    assert out == ""
    rows = [line.split(maxsplit=2) for line in err.splitlines()]
    assert [row[:2] for row in rows[:5]] == [
        ["正常", "python"], ["正常", "系统"], ["正常", "内存"], ["提示", "显卡"], ["正常", "模型"],
    ]  # fmt: skip


def test_a_problem_is_shown_with_its_fix_and_ends_with_1(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "ask", lambda: Cuda("2.13.0+cu130", "13.0", problem="no driver"))
    with pytest.raises(ProblemsFound) as caught:
        doctor.doctor(Asked("smoke", models, tmp_path), as_json=False)
    assert (caught.value.exit_code, caught.value.message) == (1, "to be put right first: gpu")
    lines = capsys.readouterr().err.splitlines()
    number = next(number for number, line in enumerate(lines) if line.startswith("problem  gpu"))
    assert lines[number].endswith("torch 2.13.0+cu130 for CUDA 13.0: no NVIDIA driver is to be seen")
    assert lines[number + 1].lstrip().startswith("-> docker run --gpus all …")


def test_limits_of_the_container_are_what_there_is(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = Allowance(Memory(1_000_000_000, 400_000_000), 0.5)
    monkeypatch.setattr(cgroups, "allowance", lambda: limited)
    text = "0.5 cores, 600 MB of 1.0 GB free (limits of the container)"
    assert report(capsys, Asked("smoke", models, tmp_path))["memory"] == [Finding("memory", "ok", text)]
    # version 1 says "no limit" with a number that no machine has
    monkeypatch.setattr(cgroups, "allowance", lambda: Allowance(Memory(9223372036854771712, 1), 1e6))
    found = report(capsys, Asked("smoke", models, tmp_path))["memory"][0].text
    total = f"{psutil.virtual_memory().total / 1e9:.1f} GB"
    assert found.startswith(f"{len(os.sched_getaffinity(0))} cores, ")
    assert found.endswith(f"of {total} free")


def test_a_model_that_is_not_whole_is_a_problem_if_it_is_the_one_that_is_used(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models / "smoke", tmp_path / "smoke")
    shutil.rmtree(tmp_path / "smoke/vae")
    (tmp_path / "i2vgen-xl").mkdir()
    other, own = report(capsys, Asked("smoke", tmp_path, tmp_path))["model"]
    assert (own.state, own.text) == ("problem", f"{tmp_path}/smoke: vae/ is missing")
    assert own.fix == "build or pull the image again; python -m app verify reads all of it"
    assert other.state == "note"
    assert other.text.startswith(f"{tmp_path}/i2vgen-xl: ")


def test_a_default_model_that_is_not_there_is_a_problem_unless_the_app_makes_it(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = report(capsys, Asked("i2vgen-xl", models, tmp_path))["model"]
    assert missing[0] == Finding(
        "model", "problem", f"{models}/i2vgen-xl is not there", "--model NAME, or JINGXIANG_MODEL; there is smoke"
    )
    assert missing[1].state == "ok"
    made = report(capsys, Asked("smoke", tmp_path / "none", tmp_path))["model"]
    assert made == [Finding("model", "ok", "smoke is made when it is first used")]


def test_a_model_that_nobody_knows_is_a_problem(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = report(capsys, Asked("smok", models, tmp_path))["model"]
    assert found.state == "problem"
    assert found.text.startswith(
        "app/models.toml: no model named 'smok'; there is animatediff, i2vgen-xl, smoke, svd-xt"
    )


def test_outputs_that_cannot_be_written_are_a_problem_with_the_mount_that_helps(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = report(capsys, Asked("smoke", models, Path("/proc/videos")))["outputs"]
    assert found.state == "problem"
    assert found.text.startswith(f"/proc/videos cannot be written by user {os.geteuid()}:{os.getegid()}: ")
    assert found.fix == "docker run -v FOLDER:/proc/videos --user $(id -u):$(id -g) … with a FOLDER of your own"


def test_a_full_disk_is_a_note(models: Path, capsys: pytest.CaptureFixture[str], mounted: Callable[[str, int], Path]
                               ) -> None:  # fmt: skip
    (found,) = report(capsys, Asked("smoke", models, mounted("tmpfs", 8)))["outputs"]
    assert (found.state, found.fix) == ("note", "make room, or mount a larger disk")


def test_no_folder_for_temporary_files_is_a_problem(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/proc/none")
    (found,) = report(capsys, Asked("smoke", models, tmp_path))["temporary"]
    assert (found.state, found.fix) == ("problem", "docker run --tmpfs /proc/none …")


def test_nobody_s_name_is_in_it_but_the_home_of_a_container_is_called_as_it_is(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert report(capsys, Asked("smoke", models, tmp_path))["outputs"][0].text.startswith("~: ")
    monkeypatch.setenv("HOME", "/tmp")
    monkeypatch.delenv("TMPDIR", raising=False)
    found = report(capsys, Asked("smoke", models, tmp_path))
    assert found["temporary"][0].text.startswith("/tmp: ")
    assert found["outputs"][0].text.startswith(f"{tmp_path}: ")


def test_the_command_looks_at_what_the_environment_says(models: Path, tmp_path: Path) -> None:
    chosen = {"HOME": str(models.parent), "OUTPUTS": str(tmp_path), "MODEL": "i2vgen-xl"}
    done = subprocess.run(
        [sys.executable, "-m", "app", "doctor", "--models", str(models)], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **{f"JINGXIANG_{name}": value for name, value in chosen.items()}}, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[-1] == "error: to be put right first: model"
    assert f"problem  model      {models}/i2vgen-xl is not there" in lines
