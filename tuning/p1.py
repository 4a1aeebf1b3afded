"""Where an adoption's time goes: python tuning/p1.py FOLDER MODEL make|plain|sought|serial"""
import cProfile, contextlib, io, os, pstats, shutil, sys, time
sys.path[:0] = [os.getcwd()]
from pathlib import Path
T = time.time()
def say(*a): print(f"{time.time() - T:6.2f}", *a, flush=True)
import torch
from app import adapters, garbage
from app.adapters import compiled
from app.artifacts import Shelf
from ci.bench.speed import cases
from ci.bench.speed.ours import Workshop
from ci.bench.speed.stock import synchronize
folder, name, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
say("imported")
(case, _), *_ = cases.made(folder / "models", [name], tiny=name == "smoke")
shelf = Shelf(folder / "artifacts")
if how == "make":
    with Workshop(folder / "artifacts") as w: w.begin(case); say(*w.end())
    kinds = {}
    for p in (folder / "artifacts").rglob("*"):
        if p.is_file(): k = p.suffix; n, b = kinds.get(k, (0, 0)); kinds[k] = n + 1, b + p.stat().st_size
    say({k: (n, round(b / 1e6, 1)) for k, (n, b) in sorted(kinds.items(), key=lambda x: -x[1][1])}); sys.exit()
model = adapters.load(case.spec, case.folder); say("loaded")
key = model.compilation(case.preset); found = shelf.find(key); say("found, all of it read", found.folder)
made = found.folder
import torch._inductor.compile_fx, torch._inductor.async_compile, torch._inductor.codecache, app.adapters.kernels
say("inductor imported")
laps = {}
def lap(owner, attribute):
    old = getattr(owner, attribute)
    def new(*a, **k):
        t = time.time()
        try: return old(*a, **k)
        finally: laps[attribute] = laps.get(attribute, 0) + time.time() - t
    setattr(owner, attribute, new)
lap(compiled, "_prepare"); lap(compiled.Code, "load")
from torch._inductor import triton_bundler
from torch._inductor.codecache import PyCodeCache
from torch._inductor.codecache import StaticAutotunerFuture
import triton, triton.compiler.compiler
for owner, attribute in ((triton_bundler.TritonBundler, "read_and_emit"), (triton_bundler.TritonBundler, "load_autotuners"), (PyCodeCache, "load_by_key_path"), (PyCodeCache, "write"),
                         (StaticAutotunerFuture, "result"), (triton, "compile")):
    lap(owner, attribute)
if how == "serial":
    class Serial:
        def __init__(self, *a): pass
        def __enter__(self): return self
        def __exit__(self, *a): pass
        def map(self, f, xs): return [f(x) for x in xs]
    compiled.ThreadPoolExecutor = Serial
prof = cProfile.Profile(); own = compiled.Compiled(model.pipe, model.device, model.constant); t = time.time()
if how == "serial": prof.enable()
with contextlib.nullcontext() if how == "sought" else garbage.put_off(): own.adopt(key.digest, made, shelf.scratch())
prof.disable()
say("ADOPTED in", round(time.time() - t, 2), {k: round(v, 2) for k, v in laps.items()})
model._compiled = own
for title in ("first 2 steps", "again"):
    t = time.time(); model.generate([case.request(2)], lambda *_: None); synchronize(); say(title, round(time.time() - t, 2))
if how == "serial":
    s = io.StringIO(); pstats.Stats(prof, stream=s).sort_stats("cumulative").print_stats(80); pstats.Stats(prof, stream=s).sort_stats("tottime").print_stats(40); print(s.getvalue())
