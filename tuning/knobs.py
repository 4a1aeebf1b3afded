"""What a step takes with other settings of libraries: python tuning/knobs.py FOLDER"""
import os, sys, time
sys.path[:0] = [os.getcwd()]
from pathlib import Path
import torch
from ci.bench.gpu import timed
from ci.bench.speed import cases
from ci.bench.speed.ours import Ours
folder = Path(sys.argv[1]); (case, _), *_ = cases.made(folder / "models", ["i2vgen-xl"], tiny=False)
own = Ours(case, folder / "artifacts"); print(own.how, flush=True)
def clear():
    for graphs in own.model._compiled._graphs.values():
        for g in graphs: g.forget()
def tell(title):
    clear(); t = time.time(); own.make(2, lambda: None); torch.cuda.synchronize(); first = time.time() - t
    a, _ = timed(own.make, 26, of=50); print(f"{title}: first {first:.2f} s, step {a.step_s * 1e3:.2f} ms, video {a.video_s:.3f} s", flush=True)
tell("as it is")
torch.backends.cudnn.benchmark = True; tell("cudnn.benchmark")
torch.backends.cuda.preferred_blas_library("cublaslt"); tell("and cublaslt")
torch.backends.cudnn.benchmark = False; tell("cublaslt alone")
torch.backends.cuda.preferred_blas_library("cublas"); tell("cublas, as it is")
