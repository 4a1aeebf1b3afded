"""How far off a compiled part is in its worst block of numbers: python tuning/blocks.py FOLDER MODEL"""
import os, sys, time
sys.path[:0] = [os.getcwd()]
from dataclasses import replace
from pathlib import Path
import torch, torch.utils._pytree as pytree
from app import adapters
from app.adapters import compiled, compiling, keys
from app.artifacts import Shelf
from ci.bench.speed import cases
folder, name = Path(sys.argv[1]), sys.argv[2]
(case, _), *_ = cases.made(folder / "models", [name], tiny=name == "smoke"); T = time.time()
shelf = Shelf(folder / "artifacts"); found = shelf.find(keys.key(case.spec, case.folder, case.preset, dtype="auto")); print(found and found.folder)
orders = list(compiling._orders(case.spec, case.folder, case.preset, "auto", found.folder)); print(len(orders), "orders", round(time.time() - T, 1), flush=True)
compiled._prepare(shelf.scratch(), found.folder)
if torch.cuda.is_available():
    import app.adapters.kernels
    compiled.settle()
torch.set_grad_enabled(False); torch.set_num_threads(2)
for o in orders:
    module = o.module(); a, k = o.called(); run = compiled.Code.load(o.to, torch.device(o.device)).bound(module)
    wanted = pytree.tree_leaves(module(*a, **k)); made = pytree.tree_leaves(run(*a, **k))
    exact = pytree.tree_leaves(module.float()(*pytree.tree_map_only(torch.Tensor, lambda x: x.float() if x.is_floating_point() else x, a), **pytree.tree_map_only(torch.Tensor, lambda x: x.float() if x.is_floating_point() else x, k))) if o.device != "cpu" else wanted
    for m, w, e in zip(made, wanted, exact):
        flat = lambda t: t.float().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(-1) if t.ndim == 4 else t.float().reshape(-1)
        m, w, e = flat(m), flat(w), flat(e); rms = w.square().mean().sqrt(); line = []
        for n in (64, 512, 4096):
            if len(m) < n: continue
            c = len(m) // n * n; sq = lambda d: (d[:c].view(-1, n).square().mean(1).sqrt() / rms).max().item()
            line.append(f"{n}: {sq(m - w):.4f} exact {sq(m - e):.4f} eager {sq(w - e):.4f} largest block {sq(w):.2f};")
        print(o.name, f"{len(m)} whole {((m - w).norm() / w.norm()).item():.5f} max {((m - w).abs().max() / rms).item():.4f}", *line, flush=True)
    del module, run, made, wanted, exact; torch.cuda.empty_cache() if torch.cuda.is_available() else None
print(round(time.time() - T, 1))
