"""Compile the parts of a pipeline for one size of video: a file for each, which `compiled` loads.

Each part is compiled in a process of its own, several at a time, with random weights: what is compiled knows their
shapes only. That then becomes another program, which has nothing but the file, runs it beside the part itself and
compares: what does not give the same numbers, but for rounding, is not kept.

    python -m app.adapters.compiling make ORDER    compile what the file says, and become the other one
    python -m app.adapters.compiling check ORDER   run what was compiled
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import itertools
import math
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torch.utils._pytree as pytree
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from app import cgroups
from app.adapters import compiled, rewrites, twins
from app.adapters.compiled import CACHE, DENOISERS, INDUCTOR, TRITON, TUNED, TUNED_FILES, Code, Signature
from app.adapters.keys import GUIDED, key
from app.texts import tr
from jingxiang import console
from jingxiang.compiled import Key
from jingxiang.digest import canonical_json
from jingxiang.errors import JingxiangError
from jingxiang.models import HALF_BYTES, ModelSpec, Preset

STEPS = 2  # enough to see what the parts are called with
# The first that can is taken. On Hopper cuDNN's is half as fast again as FlashAttention's.
ATTENTION = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
]  # fmt: skip
HOPPER = (9, 0)
COMPILED, CHECKED = "inductor-of-compiler", "inductor-of-check"  # folders of PyTorch's while a part is made
RUNS = 20  # of what was compiled, before it is kept: what a kernel reads too early may be right by chance
# How far compiled parts may be off in fp16: all numbers together, of their length, and those of any block, of what is a
# block's on average. Rounding gives 0.004 and 0.013 at most; a tile that was read too early is a block or more.
OFF, OFF_IN_BLOCK = 0.02, 0.1
BLOCK = 64
LONGEST_S = 300.0  # for one of them, which takes less than a second on a GPU
AMPERE = (8, 0)  # what our own kernels were written for, in numbers of 16 bits: Triton multiplies others as TF32
CORES = 2  # that one compilation keeps busy
MOST = 8  # at a time: each takes memory of the GPU
ENVIRONMENT = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": str(CORES)}
LOOK_S = 0.1
# Of a kernel, how Triton came to it. Whoever loads it reads the binary and what is known of that.
TEXTS = (".source", ".ttir", ".ttgir", ".llir", ".ptx")

__all__ = ["CannotCompile", "key", "make"]


class Kernels(enum.IntEnum):
    """Which of our own: what fails with some is made with fewer."""

    NONE, SIMPLE, ALL = range(3)


class CannotCompile(JingxiangError):
    """A part could not be compiled, or gave other numbers."""

    def __init__(self, part: str, said: str) -> None:
        self.reason = next((line for line in reversed(said.splitlines()) if line.strip()), "?").strip()
        super().__init__(f"{part}: {self.reason}")


@dataclass(frozen=True)
class Shape:
    """Stands for a tensor that a part is called with. `is_twin`: both halves of it are equal; `run`: so many one after
    the other are.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    is_twin: bool = False
    run: int = 1


@dataclass(frozen=True)
class Order:
    """One part to compile for one signature. `kind` and `config`: the class of its network and how to make one;
    `part`: its name in that network, `name`: in the pipeline; `to`: the file; `kernels`: which of our own.
    """

    kind: tuple[str, str]
    config: dict[str, Any]
    part: str
    name: str
    signature: Signature
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    dtype: torch.dtype
    device: str
    to: Path
    kernels: Kernels

    def module(self) -> torch.nn.Module:
        """It with random weights, lying channels last."""
        kind = getattr(importlib.import_module(self.kind[0]), self.kind[1])
        with torch.device("meta"):
            network = kind.from_config(self.config).to(self.dtype)
        made: torch.nn.Module = network.get_submodule(self.part).to_empty(device=self.device).eval()
        generator = torch.Generator(self.device).manual_seed(0)
        for name, each in compiled.tensors(made).items():
            if each.is_floating_point() and each.ndim > 1:
                each.uniform_(-1.0, 1.0, generator=generator).div_(each[0].numel() ** 0.5)
            else:
                each.fill_(1.0 if name.endswith("weight") else 0.0)
        compiled.channels_last(made, last=True)
        return made

    def called(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Random numbers of the shapes that it is called with."""
        generator = torch.Generator(self.device).manual_seed(1)

        def filled(each: Shape) -> Tensor:
            empty = torch.empty_strided(each.shape, each.stride, dtype=each.dtype, device=self.device)
            full = empty.normal_(generator=generator) if empty.is_floating_point() else empty.zero_()
            if each.is_twin:
                full = full.copy_(torch.cat([full.chunk(2)[0]] * 2))
            return full.copy_(full[:: each.run].repeat_interleave(each.run, 0)) if each.run > 1 else full

        found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
            Shape, filled, (self.arguments, self.named)
        )
        return found

    @property
    def tensors(self) -> list[Shape]:
        """Those that it is called with."""
        return [each for each in pytree.tree_leaves((self.arguments, self.named)) if isinstance(each, Shape)]


def make(
    spec: ModelSpec, folder: Path, preset: Preset, *, dtype: str, into: Path, tell: Callable[[int, int], None]
) -> Key:
    """Compile a model, whose weights are in `folder`, for videos of that size. `tell` hears how many parts are done, of
    how many. What fails with some of our own kernels is made without those. Raises `CannotCompile`, and what
    loading raises.
    """
    found = key(spec, folder, preset, dtype=dtype)
    if found is None:
        raise CannotCompile(spec.name, tr("nothing is compiled on this machine"))
    orders = list(_orders(spec, folder, preset, dtype, into))
    with tempfile.TemporaryDirectory(prefix="jingxiang-compile-") as scratch:
        waiting, running, done = orders[::-1], dict[subprocess.Popen[bytes], tuple[Order, Path]](), 0
        try:
            while waiting or running:
                while waiting and len(running) < at_once():
                    order, place = waiting.pop(), Path(tempfile.mkdtemp(dir=scratch))
                    running[_start(order, place)] = order, place
                time.sleep(LOOK_S)
                for process in [each for each in running if each.poll() is not None]:
                    order, place = running.pop(process)
                    if process.returncode:
                        waiting.append(_with_fewer_kernels(order, place))
                        continue
                    _copy_kernels(place / TRITON, into / TRITON)
                    _copy_tuned(place / CHECKED, into / TUNED)
                    done += 1
                    tell(done, len(orders))
        finally:
            for process in running:
                process.kill()
                process.wait()
    return found


def at_once() -> int:
    """How many parts are compiled at a time, with the cores that this process may use."""
    cores = min(len(os.sched_getaffinity(0)), cgroups.allowance().cores or math.inf)
    return max(1, min(MOST, int(cores // CORES)))


def _with_fewer_kernels(order: Order, place: Path) -> Order:
    """What is tried next after it failed, whose log is in that folder. Raises `CannotCompile` if that was all."""
    failed = CannotCompile(order.name, (place / "log").read_text(encoding="utf-8", errors="replace"))
    if order.kernels is Kernels.NONE:
        raise failed
    fewer = Kernels(order.kernels - 1)
    part, reason = order.name, failed.reason
    if fewer is Kernels.SIMPLE:
        console.warn(tr("{part}: is compiled without our fastest kernels: {reason}", part=part, reason=reason))
    else:
        console.warn(tr("{part}: is compiled without our own kernels: {reason}", part=part, reason=reason))
    for file in order.to.parent.glob(f"{order.to.stem}.*"):
        file.unlink()
    return dataclasses.replace(order, kernels=fewer)


def _orders(spec: ModelSpec, folder: Path, preset: Preset, dtype: str, into: Path) -> Iterator[Order]:
    """What has to be compiled: found by making a video of a few steps."""
    from PIL import Image

    from app import adapters
    from app.adapters.base import Diffusion, Request
    from app.adapters.loading import free

    model = adapters.load(spec, folder, dtype=dtype)
    assert isinstance(model, Diffusion)
    seen: dict[tuple[str, Signature], tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def see(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        called = (name, compiled.signature(arguments, named))
        if called not in seen:
            seen[called] = _shapes(arguments, named)

    hooks = [
        part.register_forward_pre_hook(lambda _, *called, name=name: see(name, *called), with_kwargs=True)
        for name, part in compiled.parts(model.pipe).items()
    ]
    picture = Image.radial_gradient("L").convert("RGB")
    prompt = "the camera moves" if spec.takes_prompt else ""
    short = dataclasses.replace(preset, steps=STEPS, guidance=max(preset.guidance, 2 * GUIDED))
    model.generate([Request(picture, prompt, short, 0)], lambda *_: None)
    for hook in hooks:
        hook.remove()
    networks = {name: getattr(model.pipe, name) for name in (*DENOISERS, "vae") if hasattr(model.pipe, name)}
    kinds = {name: ((type(each).__module__, type(each).__name__), dict(each.config)) for name, each in networks.items()}
    device, number = str(model.device), model.dtype
    is_new = model.device.type == "cuda" and torch.cuda.get_device_capability() >= AMPERE
    del networks
    model.close()
    free()
    for count, ((name, called), (arguments, named)) in enumerate(seen.items()):
        network, _, part = name.partition(".")
        yield Order(
            *kinds[network], part, name, called, arguments, named, number, device, into / f"{count:02}-{name}.bin",
            kernels=Kernels.ALL if is_new and number.itemsize == HALF_BYTES else Kernels.NONE,
        )  # fmt: skip


def _start(order: Order, place: Path) -> subprocess.Popen[bytes]:
    (place / "order").write_bytes(pickle.dumps(order))
    env = {
        **os.environ, **ENVIRONMENT, CACHE: str(place / "triton-of-compiler"), INDUCTOR: str(place / COMPILED),
    }  # fmt: skip
    with (place / "log").open("wb") as log:
        argv = [sys.executable, "-m", "app.adapters.compiling", "make", str(place / "order")]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)


def _make(order: Order) -> None:
    torch.set_grad_enabled(False)
    module = order.module()
    arguments, named = order.called()
    program = torch.export.export(module, arguments, named, strict=False)
    same = [number for number, each in enumerate(order.tensors) if each.is_twin]
    runs = {number: each.run for number, each in enumerate(order.tensors) if each.run > 1}
    rewrites.rewrite(program, kernels=order.kernels is not Kernels.NONE, same=same, runs=runs)
    if order.kernels is not Kernels.NONE:
        from app.adapters import kernels

        kernels.specialises = order.kernels is Kernels.ALL
    graph = program.graph_module.graph
    inputs = rewrites.inputs(program)
    for node in [each for each in graph.nodes if each.op == "placeholder" and each not in inputs]:
        graph.erase_node(node)  # a number, which is in the graph
    names = [*rewrites.join_weights(program, inputs).values()]
    constants = {name: each for name, each in program.constants.items() if isinstance(each, Tensor)}
    given = iter([each for each in pytree.tree_leaves((arguments, named)) if isinstance(each, Tensor)])
    weights = compiled.Weights(module, constants)
    flat = [next(given) if name is None else weights[name] for name in names]
    with _attention(order.device), torch._inductor.config.patch(conv_1x1_as_mm=True), _without_texts(), _understood():
        made = torch._inductor.standalone_compile(
            torch.fx.GraphModule(program.graph_module, graph), flat, dynamic_shapes="from_example_inputs", aot=True
        )
    made.save(path=str(order.to), format="binary")
    about = {
        "part": order.name,
        "signature": order.signature,
        "names": names,
        "strides": [each.stride for each in order.tensors],
        "same": same,
        "runs": [*runs.items()],
        "outputs": pytree.treespec_dumps(program.call_spec.out_spec),
    }
    order.to.with_suffix(".json").write_bytes(canonical_json(about))
    if constants:
        save_file({name: each.contiguous() for name, each in constants.items()}, order.to.with_suffix(".safetensors"))
    with _watched():
        made(*flat)  # the first time, PyTorch finds out how to launch each kernel
        _synchronize(order.device)


def _check(order: Order) -> None:
    """Run it as whoever loads it does, and compare."""
    torch.set_grad_enabled(False)
    if torch.device(order.device).type == "cuda":
        import app.adapters.kernels  # noqa: F401 (compiled code calls them)

        compiled.settle()
    module = order.module()
    arguments, named = order.called()
    run = Code.load(order.to, torch.device(order.device)).bound(module)
    wanted = pytree.tree_leaves(module(*arguments, **named))
    for _ in range(RUNS if torch.device(order.device).type == "cuda" else 1):
        with _watched():
            made = pytree.tree_leaves(run(*arguments, **named))
            _synchronize(order.device)
        for mine, each in zip(made, wanted, strict=True):
            whole, block = _off(mine, each)
            allowed = _roughness(each.dtype)
            if not (whole < OFF * allowed and block < OFF_IN_BLOCK * allowed):
                raise ValueError(tr("what was compiled is off by {off}", off=f"{max(whole, block):.4f}"))


def _off(made: Tensor, wanted: Tensor) -> tuple[float, float]:
    """How far numbers are off: all together, and in the block where they are most. Both may be NaN."""
    length = torch.linalg.vector_norm
    wrong = (made.float() - wanted).flatten()
    size = length(wanted, dtype=torch.float32).clamp_min(1e-6) / len(wrong) ** 0.5
    whole = len(wrong) // BLOCK * BLOCK
    blocks = torch.cat([length(wrong[:whole].view(-1, BLOCK), dim=1), length(wrong[whole:])[None]])
    return float(length(wrong) / len(wrong) ** 0.5 / size), float(blocks.max() / BLOCK**0.5 / size)


def _roughness(dtype: torch.dtype) -> float:
    """How much coarser its numbers are than those of fp16; finer ones may be multiplied as TF32."""
    return max(1.0, float(torch.finfo(dtype).eps / torch.finfo(torch.float16).eps))


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """End this process if that takes too long: a kernel that waits for something in vain waits for ever."""

    def give_up() -> None:
        sys.stderr.write(tr("what was compiled did not end within {seconds} s", seconds=f"{LONGEST_S:g}") + "\n")
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(LONGEST_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _without_texts() -> Iterator[None]:
    """Let PyTorch bundle of each kernel what it takes to load it: texts are most of its files, and are all read."""
    from torch._inductor.triton_bundler import TritonBundler

    collect = TritonBundler.collect

    def collected() -> Any:
        bundle, about = collect()
        kernels = [
            dataclasses.replace(each, artifacts=[file for file in each.artifacts if not file.filename.endswith(TEXTS)])
            for each in bundle.kernel_artifacts
        ]
        return dataclasses.replace(bundle, kernel_artifacts=kernels), about

    TritonBundler.collect = staticmethod(collected)
    try:
        yield
    finally:
        TritonBundler.collect = collect


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """Let PyTorch see what our kernels write to. It gives up where there is assembly, takes all that a kernel reads for
    written, too, and copies it before or after. So it is shown what is interpreted, which has none.
    """
    from torch._higher_order_ops import triton_kernel_wrap

    generate = triton_kernel_wrap.generate_ttir

    def generated(kernel: Any, given: dict[str, Any], *others: Any) -> Any:
        return generate(kernel, {**given, "IS_REAL": False} if "IS_REAL" in given else given, *others)

    triton_kernel_wrap.generate_ttir = generated
    try:
        yield
    finally:
        triton_kernel_wrap.generate_ttir = generate


def _copy_kernels(source: Path, to: Path) -> None:
    """What Triton made, but for texts. Where it says which files belong together, it does not miss any."""
    shutil.copytree(source, to, ignore=shutil.ignore_patterns(*(f"*{each}" for each in TEXTS)), dirs_exist_ok=True)


def _copy_tuned(source: Path, to: Path) -> None:
    for file in source.glob(TUNED_FILES):
        copy = to / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


@contextlib.contextmanager
def _attention(device: str) -> Iterator[None]:
    newest = torch.device(device).type == "cuda" and torch.cuda.get_device_capability() >= HOPPER
    with sdpa_kernel(ATTENTION if newest else ATTENTION[1:], set_priority=True):
        yield


def _shapes(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with what stands for its tensors, as they will lie when they come from compiled parts: pictures channels
    last.
    """
    same = twins.halves([each for each in pytree.tree_leaves((arguments, named)) if isinstance(each, Tensor)])
    numbers = itertools.count()

    def shape(given: Tensor) -> Shape:
        lying = torch.empty(given.shape, device="meta")
        if given.ndim == 4:
            lying = lying.to(memory_format=torch.channels_last)
        return Shape(tuple(given.shape), tuple(lying.stride()), given.dtype, next(numbers) in same, twins.run(given))

    found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(Tensor, shape, (arguments, named))
    return found


def main(what: str, file: str) -> None:
    """In the process of one part. The check takes the place of what compiled, in the same process: it has the GPU's
    memory to itself, and ends with whoever is ended.
    """
    path = Path(file)
    order: Order = pickle.loads(path.read_bytes())  # noqa: S301 (ours, of a moment ago)
    if what == "check":
        _check(order)
        return
    _make(order)
    _copy_tuned(path.parent / COMPILED, path.parent / CHECKED)
    env = {**os.environ, CACHE: str(path.parent / TRITON), INDUCTOR: str(path.parent / CHECKED)}
    (path.parent / TRITON).mkdir()
    os.execve(sys.executable, [sys.executable, "-m", "app.adapters.compiling", "check", file], env)


if __name__ == "__main__":
    from app.adapters.compiling import main as start  # pickles name this module, not __main__

    start(*sys.argv[1:])
