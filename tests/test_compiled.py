"""app.adapters.compiled: what is compiled in use; graphs of CUDA are played by ones that just remember"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from app import logs
from app.adapters import compiled
from app.adapters.compiled import Code, Compiled
from tests.peers import system

ROOT = Path(__file__).resolve().parent.parent


class Network(torch.nn.Module):  # type: ignore[misc]
    """Counts how often it ran; `constant` is a part whose result is the same in all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = Doubling()
        self.runs = 0

    def forward(self, values: Tensor, *, more: Tensor) -> Tensor:
        self.runs += 1
        summed: Tensor = values + self.constant(more)
        return summed


class Doubling(torch.nn.Module):  # type: ignore[misc]
    runs = 0

    def forward(self, values: Tensor) -> Tensor:
        self.runs += 1
        return values * 2


class Graph:
    """Of CUDA: it knows what it was captured of. All there are are in `every`."""

    every: ClassVar[weakref.WeakSet[Graph]] = weakref.WeakSet()
    failing: ClassVar[Exception | None] = None

    def __init__(self) -> None:
        self.replayed = 0
        self.every.add(self)

    def replay(self) -> None:
        self.replayed += 1


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def capturing(graph: Graph) -> Iterator[None]:
        yield
        if Graph.failing is not None:
            raise Graph.failing

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(Graph, "failing", None)


def video(graph: Any, network: Network, steps: int = 4, size: int = 3) -> int:
    """How often the network itself ran."""
    before = network.runs
    with graph.used():
        for _ in range(steps):
            network(torch.ones(size), more=torch.ones(size))
    return network.runs - before


def graph_of(network: Network) -> Any:
    return compiled._Graph(network, ("constant", "nothing_of_that_name"))


def test_the_second_step_of_the_first_video_is_captured_and_later_ones_are_replayed() -> None:
    network = Network()
    graph = graph_of(network)
    assert video(graph, network) == 2, "once as it is, once while it is captured"
    (captured,) = Graph.every
    assert captured.replayed == 3
    assert video(graph, network) == 1
    assert captured.replayed == 3 + 3
    assert network.constant.runs == 2, "once a video"
    assert "forward" not in network.__dict__


def test_another_size_is_captured_anew() -> None:
    network = Network()
    graph = graph_of(network)
    video(graph, network)
    old = weakref.ref(next(iter(Graph.every)))
    assert video(graph, network, size=5) == 2
    assert old() is None
    assert len(Graph.every) == 1


def test_what_is_forgotten_is_gone_at_once_also_while_it_is_used() -> None:
    """Frames being decoded need the memory before the video is done."""
    network = Network()
    graph = graph_of(network)
    with graph.used():
        for _ in range(3):
            network(torch.ones(3), more=torch.ones(3))
        held = [weakref.ref(each) for each in (graph._graph, graph._output, *graph._inputs, graph._kept[0]._result)]
        assert len(held) == 5
        assert all(each() is not None for each in held)
        graph.forget()
        assert [each() for each in held] == [None] * 5
        assert torch.equal(network(torch.ones(3), more=torch.ones(3)), torch.full((3,), 3.0)), "it can still be used"
    assert video(graph, network) == 2
    assert len(Graph.every) == 1


def test_a_pipeline_s_graphs_are_forgotten_while_it_is_in_use() -> None:
    network = Network()
    used = Compiled(None, torch.device("cpu"))
    used._graphs["digest"] = [graph_of(network)]
    with used._graphs["digest"][0].used():
        for _ in range(2):
            network(torch.ones(3), more=torch.ones(3))
        assert len(Graph.every) == 1
        used.forget_graphs()
        assert len(Graph.every) == 0


def test_too_little_memory_to_capture_holds_for_one_video_and_anything_else_for_ever() -> None:
    network = Network()
    graph = graph_of(network)
    Graph.failing = RuntimeError("operation failed due to a previous error during capture")
    Graph.failing.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert video(graph, network) == 5, "it is tried once"
    Graph.failing = None
    assert video(graph, network) == 2, "and again with the next video"
    other = graph_of(network)
    Graph.failing = RuntimeError("operation not permitted when stream is capturing")
    assert video(other, network) == 5
    Graph.failing = None
    assert video(other, network) == 4


def test_a_kept_result_stays_where_a_graph_reads_it() -> None:
    module = Doubling()
    kept = compiled._Kept(module)
    places = []
    for value in (1.0, 1.0, 2.0):
        kept.begin()
        first = module(torch.full((2,), value))
        assert module(torch.full((2,), 7.0)) is first
        assert torch.equal(first, torch.full((2,), 2 * value))
        places.append(first.data_ptr())
        kept.end()
    assert len(set(places)) == 1
    kept.begin()
    assert module(torch.ones(5)).shape == (5,), "another size has a place of its own"
    kept.end()
    assert torch.equal(module(torch.full((2,), 7.0)), torch.full((2,), 14.0))
    assert module.runs == 5


class Part(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((2,), 3.0))

    def forward(self, values: Tensor, factor: int, *, more: Tensor) -> tuple[Tensor, int]:
        return values * factor + more * self.weight, factor


def test_a_part_runs_what_is_compiled_for_just_this_call_and_else_itself() -> None:
    part = Part()
    values, more = torch.ones(4, 2), torch.ones(4, 2)
    called: list[Sequence[Tensor]] = []

    def run(*given: Tensor) -> Sequence[Tensor]:
        called.append(given)
        return [torch.zeros(4, 2)]

    code = Code(
        "part", compiled.signature((values, 2), {"more": more}), ("weight", None, "extra", None), ((2, 1), (1, 4)),
        pytree.tree_structure((0, 0)), run, {"extra": torch.full((1,), 5.0)},
    )  # fmt: skip
    with pytest.raises(ValueError, match="leaves"):
        code.bound(part)(values, 2, more=more)
    code = Code("part", code.signature, code.names, code.strides, pytree.tree_structure((0,)), code.run, code.constants)
    called.clear()
    dispatch = compiled._Dispatch(part, {code.signature: code}, lambda: None)
    (got,) = dispatch(values, 2, more=more)
    assert torch.equal(got, torch.zeros(4, 2))
    ((weight, first, extra, second),) = called
    assert weight.data_ptr() == part.weight.data_ptr()
    assert (first is values, extra.item()) == (True, 5.0)
    assert (second.stride(), torch.equal(second, more)) == ((1, 4), True), "as compiled code wants it to lie"
    for arguments, named in [((values, 3), {"more": more}), ((torch.ones(6, 2), 2), {"more": torch.ones(6, 2)})]:
        own, factor = dispatch(*arguments, **named)
        assert torch.equal(own, torch.full_like(own, arguments[1] + 3.0))
        assert factor == arguments[1]
    assert len(called) == 1


def test_a_part_runs_itself_if_what_was_relied_on_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves that must be equal, or sequences; also with a graph of an earlier video, which relies on it, too."""
    part = Part()
    twin, context = torch.arange(2.0).expand(4, 2), torch.arange(12.0).view(2, 1, 6).repeat_interleave(2, 0)
    called: list[Sequence[Tensor]] = []
    forgotten: list[bool] = []
    told: list[tuple[str, str]] = []

    def run(*given: Tensor) -> Sequence[Tensor]:
        called.append(given)
        return [torch.zeros(4, 2)]

    asked = compiled.signature((twin, 2), {"more": context})
    strides = ((0, 1), context.stride())
    code = Code("part", asked, (None, None), strides, pytree.tree_structure((0,)), run, {}, (0,), ((1, 2),))

    def dispatch() -> compiled._Dispatch:
        return compiled._Dispatch(part, {asked: code}, lambda: forgotten.append(True))

    video = dispatch()
    video(twin, 2, more=context)
    assert (len(called), forgotten) == (1, [])
    monkeypatch.setattr(Part, "forward", lambda *_, more: "itself")
    monkeypatch.setattr(logs, "event", lambda kind, **about: told.append((kind, str(about["error"]))))
    assert video(twin, 2, more=context) != "itself", "only the first step of a video is looked at"
    for values, more in [(torch.arange(8.0).view(4, 2), context), (twin, torch.arange(24.0).view(4, 1, 6))]:
        video = dispatch()
        forgotten.clear()
        assert [video(values, 2, more=more), video(twin, 2, more=context)] == ["itself", "itself"]
        assert forgotten == [True]
    assert len(called) == 2
    assert [kind for kind, _ in told] == [logs.TROUBLE] * 2
    assert all(said.startswith("part runs as it is for this video") for _, said in told)


def test_joined_weights_take_no_memory_of_their_own() -> None:
    class Two(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = torch.nn.Linear(4, 2, bias=False), torch.nn.Linear(4, 3, bias=False)

    module = Two()
    before = [each.detach().clone() for each in module.parameters()]
    name = ("one.weight", "other.weight")
    joined = compiled.Weights(module, {})[name]
    assert torch.equal(joined, torch.cat(before))
    assert all(torch.equal(*pair) for pair in zip(module.parameters(), before, strict=True))
    places = {each.untyped_storage().data_ptr() for each in (joined, *module.parameters())}
    assert len(places) == 1
    again = compiled.Weights(module, {})[name]
    assert (again.data_ptr(), again.shape) == (joined.data_ptr(), joined.shape), "graphs read it there"
    module.load_state_dict({name: each + 1 for name, each in module.state_dict().items()})
    assert torch.equal(joined, torch.cat(before) + 1)
    module.to(torch.float64)
    apart = compiled.Weights(module, {})[name]
    assert torch.equal(apart, (torch.cat(before) + 1).double())


@pytest.mark.parametrize(("error", "lacks"), [
    (OSError(errno.ENOSPC, "No space left on device"), True),
    (RuntimeError("Failed to find C compiler. Please specify via CC environment variable"), True),
    (RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')"), True),
    (RuntimeError("Failed to reload cache entry from disk"), True),
    (subprocess.CalledProcessError(1, ["gcc"]), True),
    (torch.OutOfMemoryError("CUDA out of memory"), True),
    (AssertionError("libcuda.so cannot found!"), True),
    (AssertionError(), False),
    (ValueError("the model has no unet.mid_block"), False),
])  # fmt: skip
def test_what_a_machine_lacks_is_told_from_what_is_wrong_with_an_artifact(error: Exception, lacks: bool) -> None:
    assert compiled.lacks_something(error) is lacks
    outer = RuntimeError("it could not be loaded")
    outer.__context__ = error
    assert compiled.lacks_something(outer) is lacks


def test_files_are_linked_where_that_can_be_and_else_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "from").write_bytes(b"kernel")
    compiled._linked(str(tmp_path / "from"), str(tmp_path / "to"))
    assert (tmp_path / "from").samefile(tmp_path / "to")
    compiled._linked(str(tmp_path / "from"), str(tmp_path / "to"))

    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    compiled._linked(str(tmp_path / "from"), str(tmp_path / "other"))
    assert (tmp_path / "other").read_bytes() == b"kernel"
    assert not (tmp_path / "from").samefile(tmp_path / "other")


def run(code: str, *arguments: object, **env: str) -> str:
    argv = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_nothing_that_others_could_have_left_is_run(tmp_path: Path) -> None:
    """Also where the user has set other folders."""
    for file in ("triton/kernel/a.cubin", "inductor/ab/a.best_config"):
        (tmp_path / "made" / file).parent.mkdir(parents=True)
        (tmp_path / "made" / file).touch()
    said = run(
        """
        import sys
        from pathlib import Path
        from app.adapters import compiled
        compiled._prepare(Path(sys.argv[1]), Path(sys.argv[2]))
        from torch._inductor.runtime.cache_dir_utils import cache_dir, triton_cache_dir
        print(cache_dir(), triton_cache_dir(0))
        """,
        tmp_path / "scratch", tmp_path / "made", TRITON_CACHE_DIR="/others", TORCHINDUCTOR_CACHE_DIR="/others",
    )  # fmt: skip
    scratch = tmp_path / "scratch"
    assert said == f"{scratch / 'inductor'} {scratch / 'triton'}\n"
    assert (scratch / "triton" / "kernel" / "a.cubin").exists()
    assert (scratch / "inductor" / "ab" / "a.best_config").exists()


def test_kernels_of_an_artifact_are_not_compiled_again(tmp_path: Path) -> None:
    """They were made in a folder that is gone, whose path Triton has noted with them."""
    put = """
        from triton.runtime.cache import FileCacheManager
        cache = FileCacheManager("key")
        files = {name: cache.put(b"made", name) for name in ("kernel.cubin", "kernel.json")}
        cache.put_group("kernel.json", files)
        """
    run(put, TRITON_CACHE_DIR=str(tmp_path / "maker"))
    (tmp_path / "artifact").mkdir()
    (tmp_path / "maker").rename(tmp_path / "artifact" / "triton")
    said = run(
        """
        import sys
        from pathlib import Path
        from app.adapters import compiled
        for _ in range(2):
            compiled._prepare(Path(sys.argv[1]), Path(sys.argv[2]))
        from triton.runtime.cache import FileCacheManager
        print(*sorted(FileCacheManager("key").get_group("kernel.json").values()))
        """,
        tmp_path / "scratch", tmp_path / "artifact",
    )  # fmt: skip
    folder = tmp_path / "scratch" / "triton" / "key"
    assert said == f"{folder / 'kernel.cubin'} {folder / 'kernel.json'}\n"
    assert str(tmp_path / "maker") in (tmp_path / "artifact" / "triton" / "key" / "__grp__kernel.json").read_text()


def test_how_to_launch_a_kernel_is_looked_up_here_not_where_it_was_compiled(tmp_path: Path) -> None:
    """What was found to be the fastest there is what is found here."""
    tune = """
        import sys
        from pathlib import Path
        from app.adapters import compiled
        maker, scratch, artifact = map(Path, sys.argv[1:])
        file = str(maker / "ab" / "abcd.py")  # noted with a kernel when it was compiled
        from torch._inductor.runtime.triton_heuristics import Config, check_autotune_cache
        both = [Config({"XBLOCK": size}, num_warps=4, num_stages=1) for size in (128, 256)]
        """
    run(
        tune + """
        found, cache, _ = check_autotune_cache(both, file, {})
        assert found == both
        cache.save(both[1], 1000)
        """,
        tmp_path / "maker", tmp_path, tmp_path,
    )  # fmt: skip
    (tmp_path / "artifact").mkdir()
    (tmp_path / "maker").rename(tmp_path / "artifact" / "inductor")
    said = run(
        tune + """
        compiled._prepare(scratch, artifact)
        print(len(check_autotune_cache(both, file, {})[0]))
        compiled.settle()
        (found,), cache, _ = check_autotune_cache(both, file, {})
        print(found.kwargs, cache.local_cache[1].startswith(str(scratch / "inductor" / "ab")))
        """,
        tmp_path / "maker", tmp_path / "scratch", tmp_path / "artifact",
    )  # fmt: skip
    assert said == "2\n{'XBLOCK': 256} True\n"


LAUNCHER = """
import sys
programs = []
sys.addaudithook(lambda event, found: programs.append(found[0]) if event == "subprocess.Popen" else None)
from app.adapters import compiled
compiled.settle()
from triton.runtime import build
source = '''
#include <Python.h>
static struct PyModuleDef launcher = {PyModuleDef_HEAD_INIT, "launcher", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_launcher(void) { return PyModule_Create(&launcher); }
'''
build.compile_module_from_src(source, "launcher")
print(len(programs))
"""


def test_what_triton_has_compiled_is_found_where_there_are_no_programs(tmp_path: Path) -> None:
    """As in an image, which has neither a compiler nor `file`, by whose answer Triton names it."""
    system.compiler()
    teller = tmp_path / "bin" / "file"
    teller.parent.mkdir()
    teller.write_text("#!/bin/sh\necho ELF 64-bit LSB pie executable\n")
    teller.chmod(0o755)
    cache = str(tmp_path / "cache")
    path = f"{teller.parent}:{os.environ['PATH']}"
    assert run(LAUNCHER, TRITON_CACHE_DIR=cache, PATH=path) == "1\n", "the compiler"
    assert run(LAUNCHER, TRITON_CACHE_DIR=cache, PATH=str(tmp_path / "nothing")) == "0\n"
