"""app.adapters.compiling without a compiler; with one: tests/e2e/test_compiling.py"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from app import cgroups
from app.adapters import compiled, compiling, keys
from app.adapters.compiled import TRITON
from app.adapters.compiling import BLOCK, CannotCompile, Kernels, Order
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
(place / "inductor-of-check" / "ab").mkdir(parents=True)
(place / "inductor-of-check" / "ab" / (name + ".best_config")).touch()
(place / "inductor-of-check" / "ab" / (name + ".py")).touch()
if "broken" in name or ("refused" in name and kernels != "0") or ("slow" in name and kernels == "2"):
    print("Traceback (most recent call last):\\nRuntimeError: ptxas fatal")
    to.with_suffix(".safetensors").touch()
    sys.exit(1)
"""


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets a model have parts of these names."""

    def named(*names: str, kernels: Kernels = Kernels.ALL) -> None:
        def orders(_: object, folder: Path, preset: object, dtype: str, into: Path) -> Iterator[Order]:
            for number, name in enumerate(names):
                yield Order(
                    ("module", "Class"), {}, name, f"unet.{name}", (), (), {}, torch.float16, "cpu",
                    into / f"{number:02}-unet.{name}.bin", kernels,
                )  # fmt: skip

        def start(order: Order, place: Path) -> subprocess.Popen[bytes]:
            with (place / "log").open("wb") as log:
                argv = [sys.executable, "-c", PART, order.part, str(order.kernels.value), str(place), str(order.to)]
                return subprocess.Popen(argv, stdout=log, stderr=log)

        monkeypatch.setenv("JINGXIANG_COMPILE", "always")
        monkeypatch.setattr(compiling, "_orders", orders)
        monkeypatch.setattr(compiling, "_start", start)

    return named


def test_what_fails_with_our_own_kernels_is_made_without_them(
    models: Path, tmp_path: Path, parts: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    parts("down", "refused", "slow", "up")
    told: list[tuple[int, int]] = []
    key = compiling.make(
        SPEC, models / "smoke", FAST, dtype="fp32", into=tmp_path, tell=lambda *each: told.append(each)
    )
    assert key == keys.key(SPEC, models / "smoke", FAST, dtype="fp32")
    assert {path.name: path.read_text() for path in tmp_path.glob("*.*")} == {
        "00-unet.down.bin": "2", "01-unet.refused.bin": "0", "02-unet.slow.bin": "1", "03-unet.up.bin": "2",
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "triton").iterdir()) == ["down2", "refused0", "slow1", "up2"]
    kept = ["down.best_config", "refused.best_config", "slow.best_config", "up.best_config"]
    assert sorted(path.name for path in (tmp_path / "inductor" / "ab").iterdir()) == kept
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    said = capsys.readouterr().err
    for part, which in (("refused", "fastest"), ("refused", "own"), ("slow", "fastest")):
        assert said.count(f"unet.{part}: is compiled without our {which} kernels: RuntimeError: ptxas fatal") == 1


@pytest.mark.parametrize("kernels", list(Kernels))
def test_what_fails_without_them_fails(
    models: Path, tmp_path: Path, parts: Callable[..., None], kernels: Kernels
) -> None:
    parts("down", "broken", kernels=kernels)
    with pytest.raises(CannotCompile, match=r"unet\.broken: RuntimeError: ptxas fatal"):
        compiling.make(SPEC, models / "smoke", FAST, dtype="fp32", into=tmp_path, tell=lambda *_: None)


def test_what_waits_for_ever_is_given_up(tmp_path: Path) -> None:
    """As a kernel does that waits for another one in vain."""
    code = """
    import time
    from app.adapters import compiling
    compiling.LONGEST_S = 0.2
    with compiling._watched():
        pass
    time.sleep(0.5)
    with compiling._watched():
        time.sleep(60)
    """
    argv = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert CannotCompile("unet.up", done.stderr).reason == "what was compiled did not end within 0.2 s"


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


@pytest.mark.parametrize(("dtype", "roughness"), [(torch.float16, 1), (torch.bfloat16, 8), (torch.float32, 1)])
def test_one_wrong_tile_of_many_is_found_and_rounding_is_none(dtype: torch.dtype, roughness: float) -> None:
    wanted = torch.randn(64, 128, 128, generator=torch.Generator().manual_seed(0))
    exact = (0.0, 0.0)
    assert compiling._roughness(dtype) == roughness
    assert compiling._off(wanted, wanted) == exact
    whole, block = compiling._off(wanted.to(dtype), wanted)
    assert whole < compiling.OFF * roughness / 10
    assert block < compiling.OFF_IN_BLOCK * roughness / 10
    made = wanted.clone()
    made[5, 64:72, 64:72] = 0
    whole, block = compiling._off(made, wanted)
    assert whole < compiling.OFF
    assert block > compiling.OFF_IN_BLOCK
    made[5, 0, 0] = math.nan
    assert all(map(math.isnan, compiling._off(made, wanted)))
    few = torch.ones(BLOCK + 3)
    wrong = few.clone()
    wrong[-1] = 9
    assert compiling._off(wrong, few)[1] == pytest.approx(8 / BLOCK**0.5)


ANALYSED = """
import torch, triton
from torch._higher_order_ops import triton_kernel_wrap as wrap
from triton.backends.compiler import GPUTarget
from app.adapters import kernels
from app.adapters.compiling import _understood

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())
rows = torch.empty(512, 320, dtype=torch.half)
weight = torch.empty(320, 1, 320, dtype=torch.half)
given = {"values": rows, "weight": weight, "bias": weight[0], "added": rows, "out": rows.clone(), "rows": 512,
         "images": 1, "frames": 1, "pixels": 512, "TAPS": 1, "CHANNELS": 320, "WIDTH": 320, "IS_REAL": True,
         "ADDED": True, "GATED": False, **kernels.BROAD[0]}
number = wrap.kernel_side_table.add_kernel(kernels._specialised)
constants = {name: value for name, value in given.items() if not isinstance(value, torch.Tensor)}
tensors = {name: value for name, value in given.items() if name not in constants}
place = wrap.kernel_side_table.add_constant_args(constants)
print(*wrap.get_mutated_tensors(number, place, tensors, {}))
with _understood():
    print(*wrap.get_mutated_tensors(number, place, tensors, {}))
"""


def test_a_kernel_is_known_to_write_what_it_makes_and_nothing_else() -> None:
    """Else what it reads is copied. PyTorch itself does not see it: if it does one day, `_understood` can go."""
    argv = [sys.executable, "-W", "ignore", "-c", ANALYSED]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["values weight bias added out", "out"]


COMPILE = """
import hashlib, pathlib, pickle, sys
import triton
from torch._inductor.runtime.runtime_utils import triton_hash_to_path_key
from torch._inductor.triton_bundler import TritonBundler
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from app.adapters import kernels
from app.adapters.compiling import _without_texts

file = pathlib.Path(sys.argv[2])
names = ("sums", "moments", "half", "half_moments", "epsilon")
sizes = {"POSITIONS": 64, "BLOCKS": 1, "GROUPS": 2, "CHANNELS": 64, "SIZE": 32, "SIZE_PADDED": 32, "ROWS": 64,
         "AT_ONCE": 1}
types = dict(zip(names, ("*fp32", "*fp32", "i32", "i32", "fp32")), **dict.fromkeys(sizes, "constexpr"))
source = ASTSource(kernels._group_moments, types, sizes)
programs = []
sys.addaudithook(lambda event, found: programs.append(str(found[1])) if event == "subprocess.Popen" else None)
if sys.argv[1] == "load":
    TritonBundler.read_and_emit(pickle.loads(file.read_bytes()))
TritonBundler.begin_compile()
kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32))
if sys.argv[1] == "make":
    TritonBundler.put(triton_hash_to_path_key(kernel.hash), 0)
    with _without_texts():
        file.write_bytes(pickle.dumps(TritonBundler.collect()[0]))
compilations = sum("--gpu-name" in each for each in programs)
print(hashlib.sha256(kernel.asm["cubin"]).hexdigest(), compilations, *sorted(kernel.asm))
"""


def test_of_a_kernel_is_kept_what_it_takes_to_load_it(tmp_path: Path) -> None:
    """In what PyTorch bundles, and among the files. Triton compiles for a GPU where there is none."""

    def run(what: str) -> list[str]:
        argv = [sys.executable, "-c", COMPILE, what, str(tmp_path / "bundle")]
        env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / what)}
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.split()

    digest, programs, *made = run("make")
    assert programs == "1", "ptxas"
    assert {"cubin", "ptx", "ttir", "source"} <= set(made)
    assert run("load") == [digest, "0", "cubin"]
    compiling._copy_kernels(tmp_path / "make", tmp_path / "artifact" / TRITON)
    shutil.rmtree(tmp_path / "make")
    shutil.copytree(tmp_path / "artifact" / TRITON, tmp_path / "find", copy_function=compiled._linked)
    assert run("find") == [digest, "0", "cubin"]
