"""app.adapters.compiling without a compiler; with one: tests/e2e/test_compiling.py"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from app import cgroups
from app.adapters import compiling, keys
from app.adapters.compiling import CannotCompile, Order
from app.cgroups import Allowance
from jingxiang import models as catalog
from jingxiang.compiled import Key
from tests.peers.app import wait_for

ROOT = Path(__file__).resolve().parent.parent
SPEC = catalog.load(ROOT / catalog.FILE).model("smoke")
FAST = SPEC.preset("fast")


@pytest.mark.parametrize(("cores", "allowed", "count"), [
    (1, None, 1), (2, None, 1), (16, None, 8), (64, None, 8), (64, 4.0, 2), (64, 0.5, 1), (4, 64.0, 2),
])  # fmt: skip
def test_as_many_at_a_time_as_the_container_s_cores_allow(
    monkeypatch: pytest.MonkeyPatch, cores: int, allowed: float | None, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(cgroups, "allowance", lambda: Allowance(None, allowed))
    assert compiling.at_once() == count


# Stands in for the program that compiles one part: what it does is told by the order's name.
PART = """
import pathlib, sys
name, kernels, place, to = sys.argv[1:]
place, to = pathlib.Path(place), pathlib.Path(to)
to.write_text(kernels)
(place / "triton").mkdir()
(place / "triton" / (name + kernels)).touch()
if "broken" in name or ("refused" in name and kernels == "True"):
    print("Traceback (most recent call last):\\nRuntimeError: ptxas fatal")
    to.with_suffix(".safetensors").touch()
    sys.exit(1)
"""


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets a model have parts of these names."""

    def named(*names: str, kernels: bool = True) -> None:
        def orders(_: object, folder: Path, preset: object, dtype: str, into: Path) -> Iterator[Order]:
            for number, name in enumerate(names):
                yield Order(
                    ("module", "Class"), {}, name, f"unet.{name}", (), (), {}, torch.float16, "cpu",
                    into / f"{number:02}-unet.{name}.bin", kernels,
                )  # fmt: skip

        def start(order: Order, place: Path) -> subprocess.Popen[bytes]:
            with (place / "log").open("wb") as log:
                argv = [sys.executable, "-c", PART, order.part, str(order.kernels), str(place), str(order.to)]
                return subprocess.Popen(argv, stdout=log, stderr=log)

        monkeypatch.setenv("JINGXIANG_COMPILE", "always")
        monkeypatch.setattr(compiling, "_orders", orders)
        monkeypatch.setattr(compiling, "_start", start)

    return named


def test_what_fails_with_our_own_kernels_is_made_without_them(
    models: Path, tmp_path: Path, parts: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    parts("down", "refused", "up")
    told: list[tuple[int, int]] = []
    key = compiling.make(
        SPEC, models / "smoke", FAST, dtype="fp32", into=tmp_path, tell=lambda *each: told.append(each)
    )
    assert key == keys.key(SPEC, models / "smoke", FAST, dtype="fp32")
    assert {path.name: path.read_text() for path in tmp_path.glob("*.*")} == {
        "00-unet.down.bin": "True", "01-unet.refused.bin": "False", "02-unet.up.bin": "True",
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "triton").iterdir()) == ["downTrue", "refusedFalse", "upTrue"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    said = "unet.refused: is compiled without our own kernels: RuntimeError: ptxas fatal"
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize("kernels", [True, False])
def test_what_fails_without_them_fails(models: Path, tmp_path: Path, parts: Callable[..., None], kernels: bool) -> None:
    parts("down", "broken", kernels=kernels)
    with pytest.raises(CannotCompile, match=r"unet\.broken: RuntimeError: ptxas fatal"):
        compiling.make(SPEC, models / "smoke", FAST, dtype="fp32", into=tmp_path, tell=lambda *_: None)


def test_a_key_is_of_the_size_and_of_this_kind_of_processor(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key_of(width: int = 64, steps: int = 2) -> Key | None:
        preset = replace(FAST, width=width, steps=steps)
        return keys.key(SPEC, models / "smoke", preset, dtype="auto")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert key_of() is None
    monkeypatch.setenv("JINGXIANG_COMPILE", "always")
    key = key_of()
    assert key is not None
    assert key == key_of(steps=9)
    assert key != key_of(width=72)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    other = key_of()
    assert other is not None
    assert replace(other, architecture=key.architecture) == key
    assert other.architecture.endswith("-default")
    assert [keys.is_guided(replace(FAST, guidance=each)) for each in (0.0, 1.0, 1.5, 9.0)] == [False, False, True, True]


def test_sigterm_ends_the_programs_that_compile_parts(models: Path, tmp_path: Path) -> None:
    """Of the real compiler."""
    shelf = tmp_path / "a"
    argv = [sys.executable, "-m", "app", "warm", "--models", str(models), "--artifacts", str(shelf), "--preset", "fast"]
    with subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "JINGXIANG_COMPILE": "always"}) as running:
        own = psutil.Process(running.pid)
        try:
            wait_for(lambda: bool(own.children()), 120)
            compilers = own.children()
            assert all("app.adapters.compiling" in each.cmdline() for each in compilers)
        finally:
            running.terminate()
    assert running.returncode == 128 + signal.SIGTERM
    gone, alive = psutil.wait_procs(compilers, 10)
    assert (len(gone), alive) == (len(compilers), [])
    assert list(shelf.iterdir()) == []
