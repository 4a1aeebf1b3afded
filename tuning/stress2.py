"""`_product` as it is now, 1500 times."""
import os, sys
sys.path[:0] = [os.getcwd()]
import torch, triton, torch.nn.functional as F
torch.set_grad_enabled(False); triton.set_allocator(lambda size, align, stream: torch.empty(size, device="cuda", dtype=torch.int8))
from app.adapters import kernels as K
h = lambda *s: torch.randn(*s, device="cuda", dtype=torch.float16)
F3 = [dict(K.FEW), {**K.FEW, "num_warps": 8}, {**K.FEW, "N": 64, "num_stages": 4}, {**K.FEW, "N": 64, "PROGRAMS": 2, "num_stages": 3}, {**K.FEW, "FLATTEN": True}, {**K.FEW, "num_stages": 3}, dict(K.WIDE)]
for s, cs in [((3, 2, 16, 64, 1280, 1280, 0), F3), ((3, 2, 25, 144, 1280, 1280, 0), [dict(K.WIDE), dict(K.FEW)]), ((3, 2, 25, 576, 1280, 1280, 0), [dict(K.WIDE)]), ((3, 2, 16, 4096, 320, 320, 0), [dict(K.NARROW)]), ((1, 1, 1, 8192, 1280, 5120, 1), [dict(K.GATES)]), ((1, 1, 1, 8192, 1280, 1280, 0), [dict(K.WIDE)])]:
    taps, v, f, p, ch, w, gated = s; g = 2 if gated else 1
    x, wt, b = h(v, f, p, ch), h(g * w, taps, ch) / (taps * ch) ** .5, h(g * w); ad = None if gated else h(v, f, p, w); out = torch.empty(v, f, p, w, device="cuda", dtype=torch.float16)
    if gated: a, q = F.linear(x, wt[:, 0], b).chunk(2, -1); want = a * F.gelu(q)
    elif taps == 1: want = F.linear(x, wt[:, 0], b) + ad
    else: want = F.conv2d(x.permute(0, 3, 1, 2), wt.permute(0, 2, 1)[..., None], b, padding=(1, 0)).permute(0, 2, 3, 1) + ad
    for c0 in cs:
        c = dict(c0); per = c.pop("PROGRAMS")
        def fn(): K._product[(132 * per,)](x, wt, b, ad, out, v, f * p, p, TAPS=taps, CHANNELS=ch, WIDTH=w, M=128, ADDED=not gated, GATED=bool(gated), **c)
        try:
            out.fill_(7.0); fn(); first = out.clone(); off = float((first.float() - want.float()).norm() / want.float().norm()); bad = 0
            for i in range(1000): out.fill_(7.0); fn(); bad += not torch.equal(out, first)
            print(s, c0, f"off {off:.5f} {triton.testing.do_bench(fn, warmup=3, rep=10, return_mode='median'):.4f} ms differ {bad} of 1000", flush=True)
        except Exception as e: print(s, c0, repr(e)[:200], flush=True)
