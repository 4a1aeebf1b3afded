"""Where a step's time goes, and an adoption's: python tuning/look.py MODEL FOLDER"""
import cProfile, io, json, os, pstats, sys, time, collections
sys.path[:0] = [os.getcwd()]
OUT = os.environ.get("OUT", "/tmp"); name, folder = sys.argv[1:3]
from pathlib import Path
t0 = time.time()
import torch
from app.adapters import compiled
from ci.bench.speed import cases
from ci.bench.speed.ours import Ours
class Serial:
    def __init__(self, *a): pass
    def __enter__(self): return self
    def __exit__(self, *a): pass
    def map(self, f, xs): return [f(x) for x in xs]
compiled.ThreadPoolExecutor = Serial
old = compiled.Compiled.adopt
prof = cProfile.Profile()
def adopt(self, *a):
    t = time.time(); prof.enable(); old(self, *a); prof.disable(); print("adopt serial under profile", round(time.time() - t, 1), flush=True)
compiled.Compiled.adopt = adopt
(case, _), *_ = cases.made(Path(folder) / "models", [name], tiny=False)
print("imports", round(time.time() - t0, 1), flush=True)
own = Ours(case, Path(folder) / "artifacts"); print(own.how, round(time.time() - t0, 1), flush=True)
s = io.StringIO(); pstats.Stats(prof, stream=s).sort_stats("cumulative").print_stats(70); pstats.Stats(prof, stream=s).sort_stats("tottime").print_stats(30)
open(f"{OUT}/adopt-{name}.txt", "w").write(s.getvalue())
import linecache, threading
class Samples(threading.Thread):
    """Where the main thread is, every 5 ms: the innermost line, and what of ours it was called by."""
    def __init__(self): super().__init__(daemon=True); self.over = threading.Event(); self.found = collections.Counter(); self.ours = collections.Counter(); self.main = threading.get_ident()
    def run(self):
        while not self.over.wait(0.005):
            frame = sys._current_frames()[self.main]; self.found[self.line(frame)] += 1
            while frame is not None and not any(part in frame.f_code.co_filename for part in ("/app/", "diffusers", "transformers", "inductor")): frame = frame.f_back
            if frame is not None: self.ours[self.line(frame)] += 1
    def line(self, frame): name, number = frame.f_code.co_filename, frame.f_lineno; return f"{'/'.join(name.split('/')[-2:])}:{number} {linecache.getline(name, number).strip()[:100]}"
for title in ("first 3 steps", "again 3 steps"):
    samples = Samples(); samples.start(); t = time.time(); own.make(3, lambda: None); torch.cuda.synchronize(); print(title, round(time.time() - t, 2), flush=True); samples.over.set(); samples.join()
    kinds = collections.Counter()
    for line, n in samples.found.items(): kinds["convolution" if "convolution" in line else "kernel" if ".run(" in line else "other"] += n
    print(title, "samples of 5 ms", sum(samples.found.values()), dict(kinds))
    for counted_ in (samples.found, samples.ours):
        for line, n in counted_.most_common(14): print(f"{n * 5:6} ms {line}")
def counted(steps):
    found = collections.Counter(); calls = collections.Counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        own.make(steps, lambda: None); torch.cuda.synchronize()
    for e in p.events():
        if e.device_type == torch.autograd.DeviceType.CUDA: found[e.name] += e.device_time_total if hasattr(e, "device_time_total") else e.cuda_time_total; calls[e.name] += 1
    return found, calls
a, ca = counted(2); b, cb = counted(6)
rows = sorted(((b[k] - a[k]) / 4e3, (cb[k] - ca[k]) / 4, k) for k in b)[::-1]
with open(f"{OUT}/step-{name}.txt", "w") as f:
    print("GPU ms a step", round(sum(r[0] for r in rows), 2), file=f)
    for ms, n, k in rows[:160]: print(f"{ms:8.3f} {n:6.1f} {k[:150]}", file=f)
print(open(f"{OUT}/step-{name}.txt").read()[:2500], flush=True)
