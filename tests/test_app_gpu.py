"""app.gpu: what is said of each way in which cards can be there or not"""

from __future__ import annotations

from pathlib import Path

import pytest

from app import gpu
from app.gpu import Card, Cuda, Surroundings, Verdict

NONE = Surroundings("", False)
BUILT = "torch 2.13.0+cu130 for CUDA 13.0"
WITH = "docker run --gpus all … (podman: --device nvidia.com/gpu=all)"
NO_DRIVER = "Found no NVIDIA driver on your system"


def verdicts(around: Surroundings, *cards: Card, problem: str = "") -> list[Verdict]:
    return gpu.verdicts(Cuda("2.13.0+cu130", "13.0", cards, problem), around)


def test_cards_are_listed_with_their_memory() -> None:
    card = Card("NVIDIA H100 80GB HBM3", (9, 0), 60_000_000_000, 85_000_000_000)
    broken = Card("NVIDIA H100 80GB HBM3", (9, 0), problem="CUDA error: out of memory")
    assert verdicts(Surroundings("580.95.05", True), card, broken) == [
        Verdict(f"NVIDIA H100 80GB HBM3: 60.0 GB of 85.0 GB free; {BUILT}", True),
        Verdict(f"NVIDIA H100 80GB HBM3: CUDA error: out of memory; {BUILT}", False, "take the image for another CUDA"),
    ]


def test_a_container_without_cards_on_a_host_that_has_the_driver() -> None:
    assert verdicts(Surroundings("535.183.01", False), problem=NO_DRIVER) == [
        Verdict(
            f"{BUILT}: the host has an NVIDIA driver (535.183.01), but this container was started without its cards",
            False, WITH,
        )
    ]  # fmt: skip


def test_a_host_without_the_driver() -> None:
    fix = WITH + "; the host needs the NVIDIA driver and the NVIDIA container toolkit"
    assert verdicts(NONE, problem=NO_DRIVER) == [Verdict(f"{BUILT}: no NVIDIA driver is to be seen", False, fix)]


def test_a_driver_that_is_too_old_is_said_in_its_own_words() -> None:
    problem = "The NVIDIA driver on your system is too old (found version 12020)"
    fix = "update the NVIDIA driver of the host, or take the image for an older CUDA"
    around = Surroundings("535.183.01", True)
    assert verdicts(around, problem=problem) == [Verdict(f"{BUILT}: {problem}", False, fix)]


def test_hidden_cards_and_other_errors() -> None:
    hidden = Surroundings("580.95.05", True, "")
    assert verdicts(hidden, problem="No CUDA GPUs are available") == [
        Verdict(f"{BUILT}: CUDA_VISIBLE_DEVICES='' hides all cards", False, "start it without CUDA_VISIBLE_DEVICES")
    ]
    seen = Surroundings("580.95.05", True)
    assert verdicts(seen, problem="CUDA unknown error") == [
        Verdict(f"{BUILT}: CUDA unknown error", False, "try on the host: nvidia-smi")
    ]
    assert verdicts(seen)[0].text == f"{BUILT}: the driver knows no card"


def test_a_cpu_build_is_neither_well_nor_wrong() -> None:
    text = "torch 2.13.0+cpu is a CPU build: videos are made without a GPU"
    assert gpu.verdicts(Cuda("2.13.0+cpu", ""), NONE) == [Verdict(text, None)]


def test_a_torch_that_cannot_be_imported_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    code = "raise OSError('libcudart.so.13: cannot open shared object file: No such file or directory')\n"
    (tmp_path / "torch/__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    (verdict,) = gpu.verdicts(gpu.ask(), NONE)
    reason = "libcudart.so.13: cannot open shared object file: No such file or directory"
    assert (verdict.text, verdict.is_well) == (f"torch cannot be imported: {reason}", False)


def test_the_torch_of_the_tests_is_a_cpu_build() -> None:
    found = gpu.ask()
    assert (found.build, found.cards, found.problem) == ("", (), "")
    assert found.torch.endswith("+cpu")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n", "580.95.05"),
        ("something else\n", "?"),
    ],
)
def test_the_driver_of_the_host_is_seen_from_a_container(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / "version").write_text(text)
    found = gpu.surroundings(tmp_path / "version", tmp_path / "dxg", "libnone.so.1")
    assert found == Surroundings(version, False)


def test_wsl_has_a_device_instead(tmp_path: Path) -> None:
    assert gpu.surroundings(tmp_path / "version", tmp_path / "dxg", "libnone.so.1") == NONE
    (tmp_path / "dxg").write_text("")
    assert gpu.surroundings(tmp_path / "version", tmp_path / "dxg", "libc.so.6") == Surroundings("?", True)


@pytest.mark.parametrize(("value", "hidden"), [("", ""), ("-1", "-1"), ("0", None), ("GPU-1234", None)])
def test_only_some_values_hide_all_cards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, hidden: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert gpu.surroundings(tmp_path / "a", tmp_path / "b", "libnone.so.1").hidden == hidden


@pytest.mark.parametrize(
    ("architecture", "runs"),
    [((6, 1), False), ((7, 5), True), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 3), True), ((12, 1), True)],
)
def test_which_cards_a_build_runs_on(architecture: tuple[int, int], runs: bool) -> None:
    built = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120"]
    assert gpu.runs(built, architecture) == runs


def test_a_build_with_ptx_runs_on_what_comes_later_too() -> None:
    assert not gpu.runs(["sm_90"], (12, 0))
    assert gpu.runs(["sm_90", "compute_90"], (12, 0))
    assert not gpu.runs(["sm_90", "compute_90"], (8, 9))
