"""jingxiang.gpu, with programs called nvidia-smi that answer as NVIDIA's does"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from jingxiang import gpu
from jingxiang.gpu import Gpu, Gpus

GIB = 2**30
H200 = Gpu("NVIDIA H200", "570.86.15", 143771 << 20, 143000 << 20, "9.0")


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, *, stdout: str = "", stderr: str = "", code: int = 0) -> Path:
    """An nvidia-smi first on PATH; it notes its arguments in the file that is returned."""
    program, noted = folder / "nvidia-smi", folder / "arguments"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(noted))}\n'
        f"printf %s {shlex.quote(stdout)}\nprintf %s {shlex.quote(stderr)} >&2\nexit {code}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return noted


def test_one_card_is_read_with_its_memory_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = driver(tmp_path, monkeypatch, stdout="NVIDIA H200, 570.86.15, 143771, 143000, 9.0\n")
    found = gpu.detect()
    assert found == Gpus((H200,))
    assert gpu.summary(found) == "NVIDIA H200, driver 570.86.15, 139.6 of 140.4 GiB free"
    assert noted.read_text().split("\n") == [
        "--query-gpu=name,driver_version,memory.total,memory.free,compute_cap", "--format=csv,noheader,nounits", "",
    ]  # fmt: skip


def test_two_cards_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(
        tmp_path,
        monkeypatch,
        stdout="NVIDIA L20, 550.90.07, 46068, 45000, 8.9\nNVIDIA L20, 550.90.07, 46068, 10, 8.9\n",
    )
    found = gpu.detect()
    assert found == Gpus(
        (
            Gpu("NVIDIA L20", "550.90.07", 46068 << 20, 45000 << 20, "8.9"),
            Gpu("NVIDIA L20", "550.90.07", 46068 << 20, 10 << 20, "8.9"),
        )
    )
    assert gpu.summary(found) == "2 x NVIDIA L20, driver 550.90.07, 43.9 of 45.0 GiB free"


def test_a_card_that_shares_the_memory_of_the_cpu_has_none_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, stdout="NVIDIA GB10, 580.95.05, [N/A], [N/A], 12.1\n")
    assert gpu.detect() == Gpus((Gpu("NVIDIA GB10", "580.95.05", 0, 0, "12.1"),))


def test_a_driver_without_cards_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, stdout="\n")
    assert gpu.detect() == Gpus(())


@pytest.mark.parametrize("channel", ["stdout", "stderr"])
def test_a_driver_that_fails_is_a_problem_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: str
) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\nMake sure that it runs.\n"
    driver(tmp_path, monkeypatch, code=9, **{channel: said})
    found = gpu.detect()
    words = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that it runs."
    assert found == Gpus((), words)
    assert gpu.summary(found) == f"NVIDIA driver does not answer: {words}"


def test_a_machine_without_a_driver_has_no_gpu_and_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = gpu.detect()
    assert found == Gpus(())
    assert gpu.summary(found) == "no NVIDIA GPU: CPU build"


def test_an_answer_that_is_not_what_was_asked_for_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, stdout="No devices were found\n")
    assert gpu.detect() == Gpus((), "No devices were found")
