"""What was compiled of a pipeline, in use: parts of its networks run it for the sizes that it is for, else themselves.

A part is a block of a network that denoises, or the decoder. It is found by the shapes of what it is called with, so
that nothing here knows a model. While it is used, weights lie channels last, as compiled code wants them; whatever else
the pipeline makes runs as if there were nothing compiled.

The networks that denoise are captured as CUDA graphs besides: launching thousands of kernels from Python takes longer
than running them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from safetensors.torch import load_file
from torch import Tensor

from app import logs
from app.adapters import gauge, twins
from app.texts import tr

DENOISERS = ("unet", "controlnet")
BLOCKS = ("transformer_in", "down_blocks", "mid_block", "up_blocks")
DECODER = "vae.decoder"
TRITON = "triton"  # the folder in an artifact with what Triton made for it, which takes it seconds for each part
# The one with what PyTorch has found to be the fastest way to launch each kernel, which takes seconds again.
TUNED = "inductor"
TUNED_FILES = "*/*.best_config"
GROUP = "__grp__"  # begins the names of files in which Triton notes which files belong together, with whole paths
# Read by Triton and by PyTorch whenever they look for something.
CACHE, DRIVER, INDUCTOR = "TRITON_CACHE_DIR", "TRITON_LIBCUDA_PATH", "TORCHINDUCTOR_CACHE_DIR"
LOADERS = 4
# Errors that say what a machine has not got. The last one is all that is left of whatever the system said.
LACKING = re.compile(r"C(\+\+)? compiler|libcuda\.so|Failed to reload cache entry")

Signature = tuple[object, ...]


def parts(pipe: Any) -> dict[str, torch.nn.Module]:
    """All that can be compiled of a pipeline, by its name in it."""
    found: dict[str, torch.nn.Module] = {}
    for denoiser in DENOISERS:
        network = getattr(pipe, denoiser, None)
        for name in BLOCKS if network is not None else ():
            block = getattr(network, name, None)
            blocks = enumerate(block) if isinstance(block, torch.nn.ModuleList) else []
            found |= {f"{denoiser}.{name}.{number}": each for number, each in blocks}
            if isinstance(block, torch.nn.Module) and not isinstance(block, torch.nn.ModuleList):
                found[f"{denoiser}.{name}"] = block
    return {**found, DECODER: pipe.vae.decoder}


def signature(arguments: tuple[Any, ...], named: dict[str, Any]) -> Signature:
    """Equal for calls that the same compiled code serves."""
    leaves = pytree.tree_leaves((arguments, named))
    return (len(arguments), *named, *(_description(each) for each in leaves))


def channels_last(module: torch.nn.Module, *, last: bool) -> None:
    """Let the weights of convolutions lie channels last, or as they do else."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d} if last else {}
    for weight in module.parameters():
        if weight.ndim in (4, 5):
            weight.data = weight.data.contiguous(memory_format=formats.get(weight.ndim, torch.contiguous_format))


def tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: each.detach() for name, each in (*module.named_parameters(), *module.named_buffers())}


class Weights:
    """Those of a part by their names, where they lie now. `constants`: tensors that came of exporting it."""

    def __init__(self, module: torch.nn.Module, constants: dict[str, Tensor]) -> None:
        self._module = module
        self._known = {**tensors(module), **constants}

    def __getitem__(self, name: str | tuple[str, ...]) -> Tensor:
        """Several names: those weights one below the other. They take no more memory for that: each is a part of it
        from then on.
        """
        if isinstance(name, str):
            return self._known[name]
        weights = [self._module.get_parameter(each) for each in name]
        together = _together([each.detach() for each in weights])
        if together is None:
            together = torch.cat([each.detach() for each in weights])
            for weight, part in zip(weights, together.split([len(each) for each in weights]), strict=True):
                weight.data = part
        return together


def _together(weights: Sequence[Tensor]) -> Tensor | None:
    """Weights as one, if each begins where the one before it ends."""
    first = weights[0]
    place = first.storage_offset()
    for each in weights:
        is_next = each.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (is_next and each.storage_offset() == place and each.is_contiguous()):
            return None
        place += each.numel()
    return first.as_strided((sum(map(len, weights)), *first.shape[1:]), first.stride())


@dataclass(frozen=True)
class Code:
    """A part compiled for one signature. `names`: of weights, in the order of its arguments; several are joined, None
    is the next tensor that it is called with, whose strides are the next of `strides`. `constants`: tensors that came
    of exporting it. Of the tensors that it is called with, those in `same` must have equal halves, and those in `runs`
    so many sequences one after the other that are equal.
    """

    part: str
    signature: Signature
    names: tuple[str | tuple[str, ...] | None, ...]
    strides: tuple[tuple[int, ...], ...]
    outputs: Any
    run: Callable[..., Sequence[Tensor]]
    constants: dict[str, Tensor]
    same: tuple[int, ...] = ()
    runs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def load(cls, file: Path, device: torch.device) -> Code:
        """From a file that `compiling` wrote, and what is beside it. May raise anything."""
        from torch._inductor import CompiledArtifact, config  # seconds, for those who need it

        about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        beside = file.with_suffix(".safetensors")
        with config.patch(compile_threads=1):  # else a program is started that waits for something to compile
            run = CompiledArtifact.load(path=str(file), format="binary")
        return cls(
            about["part"], _frozen(about["signature"]), _frozen(about["names"]),
            tuple(tuple(each) for each in about["strides"]), pytree.treespec_loads(about["outputs"]),
            run,
            load_file(beside, device=str(device)) if beside.exists() else {},
            tuple(about["same"]), _frozen(about["runs"]),
        )  # fmt: skip

    def suits(self, given: Sequence[Tensor]) -> bool:
        """Whether what it relies on holds. Waits for whatever calculates them."""
        is_same = all(twins.is_twin(given[number]) for number in self.same)
        return is_same and all(twins.is_run(given[number], run) for number, run in self.runs)

    def bound(self, module: torch.nn.Module) -> Callable[..., Any]:
        """It with the weights of the part where they lie now."""
        weights = Weights(module, self.constants)
        fixed = [None if name is None else weights[name] for name in self.names]

        def forward(*arguments: Any, **named: Any) -> Any:
            given = (each for each in pytree.tree_leaves((arguments, named)) if isinstance(each, Tensor))
            placed = (_placed(each, strides) for each, strides in zip(given, self.strides, strict=True))
            return pytree.tree_unflatten(
                self.run(*[next(placed) if each is None else each for each in fixed]), self.outputs
            )

        return forward


class Compiled:
    """All that is loaded for a pipeline."""

    def __init__(self, pipe: Any, device: torch.device, constant: Sequence[str] = ()) -> None:
        """`constant`: parts of the network that denoises whose results are the same in all steps of a video."""
        self._pipe = pipe
        self._device = device
        self._constant = constant
        self._codes: dict[str, dict[str, dict[Signature, Code]]] = {}
        self._graphs: dict[str, list[_Graph]] = {}
        self._is_last = False  # whether weights lie channels last now

    def adopt(self, digest: str, folder: Path, scratch: Path) -> None:
        """Load what is in an artifact's folder; `scratch` is one for this process alone. May raise anything; then
        nothing of it is used.
        """
        files = sorted(folder.glob("*.bin"))
        if not files:
            raise ValueError(tr("there is nothing in it"))
        _prepare(scratch, folder)
        if self._device.type == "cuda":
            import app.adapters.kernels  # noqa: F401 (compiled code calls them)

            settle()
        codes: dict[str, dict[Signature, Code]] = {}
        with ThreadPoolExecutor(LOADERS, "compiled") as pool:
            for code in pool.map(lambda file: Code.load(file, self._device), files):
                codes.setdefault(code.part, {})[code.signature] = code
        known = parts(self._pipe)
        if unknown := set(codes) - set(known):
            raise ValueError(tr("the model has no {part}", part=min(unknown)))
        self._graphs.pop(digest, None)  # of the code that it takes the place of
        self._codes[digest] = codes

    def put_away(self) -> None:
        """Leave the weights as the pipeline has them, for whoever moves them."""
        self.forget_graphs()
        self._place(last=False)

    def forget_graphs(self) -> None:
        """Give back the memory that captured graphs keep for themselves, also while they are used."""
        for graph in [each for graphs in self._graphs.values() for each in graphs]:
            graph.forget()

    @contextlib.contextmanager
    def used(self, digest: str | None) -> Iterator[None]:
        """Let the pipeline run it meanwhile; None, or what is not loaded: nothing compiled."""
        codes = self._codes.get(digest or "")
        self._place(last=codes is not None)
        if codes is None:
            yield
            return
        known = parts(self._pipe)
        try:
            for name, each in codes.items():
                known[name].forward = _Dispatch(known[name], each, self.forget_graphs)
            with contextlib.ExitStack() as until:
                if self._device.type == "cuda":
                    self._use_graphs(digest or "", until)
                yield
        finally:
            for name in codes:
                known[name].__dict__.pop("forward", None)

    def _place(self, *, last: bool) -> None:
        """Move weights, if need be: graphs would read them where they were."""
        if last != self._is_last:
            self.forget_graphs()
            for network in _networks(self._pipe).values():
                channels_last(network, last=last)
            self._is_last = last

    def _use_graphs(self, digest: str, until: contextlib.ExitStack) -> None:
        if digest not in self._graphs:
            self.forget_graphs()  # they keep memory: one size at a time
            self._graphs.clear()
            networks = _networks(self._pipe)
            self._graphs[digest] = [_Graph(networks[name], self._constant) for name in DENOISERS if name in networks]
        for graph in self._graphs[digest]:
            until.enter_context(graph.used())


class _Dispatch:
    """Stands in for a part's `forward` during one video.

    What is compiled may rely on some of what it is given being equal: that is looked at in the first step, since the
    others are called in the same way. If it is not, `forget` is called, as graphs may rely on it, and the part runs
    itself.
    """

    def __init__(self, module: torch.nn.Module, codes: dict[Signature, Code], forget: Callable[[], None]) -> None:
        self._module = module
        self._forget = forget
        self._bound = {each: code.bound(module) for each, code in codes.items()}
        self._unseen = {each: code for each, code in codes.items() if code.same or code.runs}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        asked = signature(arguments, named)
        if (code := self._unseen.pop(asked, None)) is not None:
            given = [each for each in pytree.tree_leaves((arguments, named)) if isinstance(each, Tensor)]
            if not code.suits(given):
                reason = tr(
                    "{part} runs as it is for this video: it was compiled for inputs that are equal, and these differ",
                    part=code.part,
                )
                logs.event(logs.TROUBLE, error=ValueError(reason))
                del self._bound[asked]
                self._forget()
        run = self._bound.get(asked)
        if run is None:
            return type(self._module).forward(self._module, *arguments, **named)
        return run(*arguments, **named)


class _Graph:
    """A network whose calls are replayed: the first one of a video runs, the second one is captured, unless there is a
    graph of an earlier video.
    """

    def __init__(self, network: Any, constant: Sequence[str]) -> None:
        self._network = network
        self._kept = [_Kept(network.get_submodule(name)) for name in constant if hasattr(network, name)]
        self._graph: Any = None
        self._signature: Signature = ()
        self._inputs: list[Tensor] = []
        self._output: Any = None
        self._calls = 0
        self._is_broken = False  # it cannot be captured
        self._is_scarce = False  # it could not be captured for this video: there was too little memory

    def forget(self) -> None:
        """Give back all memory, also while it is used: then it is captured anew, or runs as it is."""
        self._graph, self._signature, self._inputs, self._output = None, (), [], None
        for kept in self._kept:
            kept.forget()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """For one video."""
        self._calls, self._is_scarce = 0, False
        for kept in self._kept:
            kept.begin()
        self._network.forward = self._forward
        try:
            yield
        finally:
            self._network.__dict__.pop("forward", None)
            for kept in self._kept:
                kept.end()

    def _forward(self, *arguments: Any, **named: Any) -> Any:
        self._calls += 1
        asked = signature(arguments, named)
        if asked != self._signature:
            self._graph, self._inputs, self._output = None, [], None
            self._signature, self._calls = asked, 1
        if self._calls == 1 or self._is_broken or self._is_scarce:
            return self._run(*arguments, **named)
        given = [each for each in pytree.tree_leaves((arguments, named)) if isinstance(each, Tensor)]
        if self._graph is None and not self._captured(given, arguments, named):
            return self._run(*arguments, **named)
        for mine, each in zip(self._inputs, given, strict=True):
            mine.copy_(each)
        self._graph.replay()
        return pytree.tree_map_only(Tensor, Tensor.clone, self._output)

    def _captured(self, given: list[Tensor], arguments: Any, named: Any) -> bool:
        """Whether it could be captured; if not, it is not tried again, or not before the next video."""
        self._inputs = [each.detach().clone() for each in given]
        mine = iter(self._inputs)
        arguments, named = pytree.tree_map_only(Tensor, lambda _: next(mine), (arguments, named))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._output = self._run(*arguments, **named)
        except RuntimeError as error:  # it does something that cannot be captured: it runs as it is
            logs.event(logs.TROUBLE, error=error)
            self._is_scarce = any(map(gauge.ran_out, gauge.chain(error)))
            self._is_broken = not self._is_scarce
            gauge.let_go(error)
            self._inputs, self._output = [], None
            return False
        self._graph = graph
        return True

    def _run(self, *arguments: Any, **named: Any) -> Any:
        return type(self._network).forward(self._network, *arguments, **named)


class _Kept:
    """A part whose result stays where it is for all steps of a video."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._result: Tensor | None = None
        self._is_fresh = False

    def begin(self) -> None:
        self._is_fresh = False
        self._module.forward = self._forward

    def end(self) -> None:
        self._module.__dict__.pop("forward", None)

    def forget(self) -> None:
        self._result, self._is_fresh = None, False

    def _forward(self, *arguments: Any) -> Tensor:
        if not self._is_fresh:
            result: Tensor = type(self._module).forward(self._module, *arguments)
            if self._result is not None and self._result.shape == result.shape:
                self._result.copy_(result)  # a captured graph reads it there
            else:
                self._result = result
            self._is_fresh = True
        assert self._result is not None
        return self._result


def _networks(pipe: Any) -> dict[str, Any]:
    found = {name: getattr(pipe, name, None) for name in (*DENOISERS, "vae")}
    return {name: network for name, network in found.items() if network is not None}


def _description(leaf: Any) -> object:
    return (str(leaf.dtype), *leaf.shape) if isinstance(leaf, Tensor) else leaf


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _placed(given: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The tensor as compiled code expects it to lie."""
    if given.stride() == strides:
        return given
    return torch.empty_strided(given.shape, strides, dtype=given.dtype, device=given.device).copy_(given)


def lacks_something(error: BaseException) -> bool:
    """Whether an error came of what this machine has not got, such as memory, room or a compiler: an artifact that was
    being loaded is not to blame for that.
    """
    return any(
        isinstance(each, (OSError, subprocess.SubprocessError)) or gauge.ran_out(each) or LACKING.search(str(each))
        for each in gauge.chain(error)
    )


@functools.cache
def settle() -> None:
    """Let Triton and PyTorch find what they have made on other machines, too.

    Triton calls code that launches kernels by what `file` says of Python, which most images do not have: then it would
    need a compiler. Where the driver is, it asks `ldconfig`, though only what compiles must know: that is known once
    the driver is loaded. PyTorch looks for how to launch a kernel where that was compiled, which is nobody's folder
    here, or anybody's.
    """
    from torch._inductor.runtime.autotune_cache import AutotuneCache
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from triton.runtime import build

    build.platform_key = lambda: f"{platform.machine()},{platform.system()}"
    if DRIVER not in os.environ and (driver := _mapped("libcuda.so")) is not None:
        os.environ[DRIVER] = str(driver.parent)
    create = AutotuneCache.create

    def here(about: Any, file: str, configs: str) -> Any:
        return create(about, str(Path(cache_dir(), *Path(file).parts[-2:])), configs)

    AutotuneCache.create = staticmethod(here)


def _mapped(name: str) -> Path | None:
    """The library of this process whose name begins so."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = (Path(line[line.index("/") :]) for line in lines if "/" in line)
    return next((path for path in paths if path.name.startswith(name)), None)


def _prepare(scratch: Path, artifact: Path) -> None:
    """Let PyTorch and Triton write to a folder where nobody else does, since they run what they find there, whatever
    the user's is; and let them find there what they made for an artifact.
    """
    os.environ |= {CACHE: str(scratch / TRITON), INDUCTOR: str(scratch / TUNED)}
    for name in (TRITON, TUNED):
        if (artifact / name).is_dir():
            shutil.copytree(artifact / name, scratch / name, copy_function=_linked, dirs_exist_ok=True)


def _linked(source: str, to: str) -> None:
    """A file in another place, too: 3900 small ones were linked in 0.3 s at most, and copied in 0.7 s at least.

    What says where others are says where they are now: Triton would look for them where they were made, and then
    compile them again.
    """
    if Path(source).name.startswith(GROUP):
        names = json.loads(Path(source).read_text(encoding="utf-8"))["child_paths"]
        here = {name: str(Path(to).with_name(Path(name).name)) for name in names}
        Path(to).write_text(json.dumps({"child_paths": here}), encoding="utf-8")
        return
    try:
        os.link(source, to)
    except FileExistsError:
        pass
    except OSError:  # on another disk, or somebody else's
        shutil.copyfile(source, to)
