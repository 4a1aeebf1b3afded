"""One part of a model is compiled and checked: python tuning/parts.py FOLDER MODEL DTYPE PART"""
import os, sys, tempfile, time
sys.path[:0] = [os.getcwd()]
from pathlib import Path
from app.adapters import compiling
from app.adapters.loading import free
from ci.bench.speed import cases
folder, name, dtype, part = Path(sys.argv[1]), *sys.argv[2:]
T = time.time(); (case, _), *_ = cases.made(folder / "models", [name], tiny=name == "smoke"); free()
with tempfile.TemporaryDirectory() as scratch:
    into = Path(scratch) / "into"; into.mkdir(); order = next(o for o in compiling._orders(case.spec, case.folder, case.preset, dtype, into) if o.name == part)
    place = Path(scratch) / "place"; place.mkdir(); print(order.kernels, order.dtype, round(time.time() - T, 1), flush=True)
    process = compiling._start(order, place); print(name, dtype, part, "exit code", process.wait(), round(time.time() - T, 1), flush=True)
    print((place / "log").read_text()[-1500:])
