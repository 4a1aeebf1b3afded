"""What exported parts of networks are rewritten to, and our own kernels, run by Triton's interpreter: without a GPU"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is for Linux")

ROOT = Path(__file__).resolve().parent.parent
# Triton reads that when kernels are defined, so each test is a process of its own.
ENVIRONMENT = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}


def run(code: str, *arguments: object) -> list[str]:
    """What a program says, line by line."""
    argv = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(argv, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize(("videos", "frames", "pixels", "heads", "size"), [
    (2, 16, 5, 3, 64), (1, 25, 3, 2, 64), (2, 8, 4, 2, 40), (1, 32, 2, 1, 80), (1, 14, 7, 1, 160),
])  # fmt: skip
def test_attention_between_the_frames_of_each_pixel(
    videos: int, frames: int, pixels: int, heads: int, size: int
) -> None:
    (off,) = run(
        """
        import sys, torch
        import torch.nn.functional as F
        from app.adapters import kernels
        v, f, p, h, s = map(int, sys.argv[1:])
        joined = torch.randn(v, f, p, 3 * h * s, generator=torch.Generator().manual_seed(0))
        q, k, w = (x.permute(0, 2, 1, 3).reshape(v * p, f, h, s).transpose(1, 2) for x in joined.chunk(3, -1))
        wanted = F.scaled_dot_product_attention(q, k, w).transpose(1, 2).reshape(v, p, f, h * s).permute(0, 2, 1, 3)
        print(float((kernels.short_attention(joined, h) - wanted).abs().max()))
        """,
        videos, frames, pixels, heads, size,
    )  # fmt: skip
    assert float(off) < 1e-5


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(("parts", "positions", "channels"), [(2, 100, 320), (3, 257, 64), (1, 7, 1280), (1, 5000, 32)])
def test_group_norm_of_values_far_from_zero(parts: int, positions: int, channels: int, silu: bool) -> None:
    (off,) = run(
        """
        import sys, torch
        import torch.nn.functional as F
        from app.adapters import kernels
        n, s, c, silu = map(int, sys.argv[1:])
        random = torch.Generator().manual_seed(0)
        values = torch.randn(n, s, c, generator=random) + 50
        weight, bias = torch.randn(c, generator=random), torch.randn(c, generator=random)
        wanted = F.group_norm(values.double().transpose(1, 2), 32, weight.double(), bias.double(), 1e-6)
        wanted = (F.silu(wanted) if silu else wanted).transpose(1, 2)
        print(float((kernels.group_norm(values, weight, bias, 32, 1e-6, bool(silu)) - wanted).abs().max()))
        """,
        parts, positions, channels, int(silu),
    )  # fmt: skip
    assert float(off) < 1e-3  # fp32 of values around 50 has six digits


@pytest.mark.parametrize(("videos", "frames", "pixels", "channels", "width"), [
    (1, 4, 64, 64, 128), (2, 3, 50, 96, 40), (1, 25, 144, 40, 72), (2, 16, 300, 8, 136), (2, 3, 128, 136, 144),
])  # fmt: skip
def test_convolution_over_frames(videos: int, frames: int, pixels: int, channels: int, width: int) -> None:
    off, off_added = run(
        """
        import sys, torch
        import torch.nn.functional as F
        from app.adapters import kernels
        v, f, p, c, o = map(int, sys.argv[1:])
        random = torch.Generator().manual_seed(0)
        shapes = (v, f, p, c), (o, 3, c), (o,), (v, f, p, o)
        x, w, b, added = (torch.randn(*each, generator=random) for each in shapes)
        wanted = F.conv2d(x.permute(0, 3, 1, 2), w.permute(0, 2, 1)[..., None], b, padding=(1, 0)).permute(0, 2, 3, 1)
        print(float((kernels.temporal_conv(x, w, b) - wanted).abs().max()))
        print(float((kernels.temporal_conv(x, w, b, added) - wanted - added).abs().max()))
        """,
        videos, frames, pixels, channels, width,
    )  # fmt: skip
    assert float(off) < 1e-3
    assert float(off_added) < 1e-3


@pytest.mark.parametrize(("channels", "width"), [(96, 160), (136, 272)])
def test_linear_layers_and_what_follows_them(channels: int, width: int) -> None:
    """Of both kinds of products."""
    gated, added = run(
        """
        import sys, torch
        import torch.nn.functional as F
        from app.adapters import kernels
        random = torch.Generator().manual_seed(0)
        c, o = map(int, sys.argv[1:])
        x, w, b, more = (torch.randn(*each, generator=random) for each in [(200, c), (o, c), (o,), (200, o)])
        value, gate = F.linear(x / 10, w, b).chunk(2, -1)
        print(float((kernels.geglu(x / 10, w, b) - value * F.gelu(gate)).abs().max()))
        print(float((kernels.linear_added(x, w, b, more) - F.linear(x, w, b) - more).abs().max()))
        """,
        channels, width,
    )  # fmt: skip
    assert float(gated) < 1e-4
    assert float(added) < 1e-4


@pytest.mark.parametrize(("rows", "pixels", "channels", "width", "gated", "settings"), [
    (131072, 4096, 320, 320, False, "BROAD"), (32768, 1024, 640, 640, False, "HIGH"),
    (8192, 8192, 1280, 1280, False, "BROAD"), (8192, 128, 1280, 640, False, "BROAD"),
    (28800, 28800, 1280, 1280, False, "HIGH"), (2048, 64, 1280, 1280, False, "None"),
    (131072, 131072, 320, 1280, True, "SMALL"), (8192, 8192, 1280, 5120, True, "DEEP"),
    (4096, 4096, 64, 320, False, "None"),
])  # fmt: skip
def test_tiles_that_keep_a_card_busy(
    rows: int, pixels: int, channels: int, width: int, gated: bool, settings: str
) -> None:
    (found,) = run(
        """
        import sys
        from app.adapters import kernels
        rows, pixels, channels, width, gated = map(int, sys.argv[1:])
        found = kernels._special(rows, pixels, channels, width, gated=bool(gated))
        known = {"BROAD": kernels.BROAD[0], "HIGH": kernels.HIGH[0], "SMALL": kernels.SMALL[0],
                 "DEEP": kernels.DEEP, "None": None}
        print(next(name for name, each in known.items() if each == found))
        """,
        rows, pixels, channels, width, int(gated),
    )  # fmt: skip
    assert found == settings


def test_what_kernels_read_is_put_into_memory_once() -> None:
    counts, forced, readers = run(
        """
        import torch
        from app.adapters import rewrites
        class Part(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.norm, self.conv = torch.nn.GroupNorm(8, 64), torch.nn.Conv2d(64, 64, 3, padding=1)
            def forward(self, x, y):
                both = torch.nn.functional.dropout(x + y, 0.5, False) / 1.0
                return self.conv(self.norm(both)) + both
        inputs = torch.randn(2, 64, 8, 8), torch.randn(2, 64, 8, 8)
        part = Part().eval()
        program = torch.export.export(part, inputs, strict=False)
        print({rule: count for rule, count in rewrites.rewrite(program, kernels=True).items() if count})
        (force,) = [node for node in program.graph.nodes if node.target is rewrites.FORCE]
        print(force.args[1])
        print(sorted(str(user.target) for user in force.users))
        assert torch.allclose(program.module()(*inputs), part(*inputs), atol=1e-5)
        """
    )
    assert counts == "{'nothing': 2, 'group_norm': 1, 'once': 1}"
    assert forced == "[4096, 1, 512, 64]"  # channels last
    assert readers == "['aten.add.Tensor', 'aten.permute.default']"


def test_a_single_key_leaves_the_linear_layer_a_single_row() -> None:
    rows, off = run(
        """
        import torch
        import torch.nn.functional as F
        from app.adapters import rewrites
        class Part(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.k, self.v, self.out = (torch.nn.Linear(32, 32) for _ in range(4))
            def forward(self, x, picture):
                q, k, v = (layer(each).view(each.shape[0], -1, 4, 8).transpose(1, 2)
                           for layer, each in ((self.q, x), (self.k, picture), (self.v, picture)))
                values = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
                return self.out(values.to(q.dtype))
        inputs = torch.randn(2, 50, 32), torch.randn(2, 1, 32)
        part = Part().eval()
        program = torch.export.export(part, inputs, strict=False)
        rewrites.rewrite(program, kernels=False)
        layers = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
        print([tuple(node.meta["val"].shape) for node in layers])
        print(float((program.module()(*inputs) - part(*inputs)).abs().max()))
        """
    )
    assert rows == "[(2, 1, 32), (2, 32)]"  # of the values, and what comes out
    assert float(off) < 1e-5


def test_what_is_the_same_in_both_halves_is_calculated_for_one() -> None:
    """Up to where the prompt is looked at, whatever shape it is brought to on the way."""
    shapes, twice, off, other = run(
        """
        import torch
        import torch.nn.functional as F
        from app.adapters import rewrites, twins
        class Part(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.GroupNorm(4, 8)
                self.over = torch.nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
                self.time, self.tokens = torch.nn.Linear(6, 8), torch.nn.LayerNorm(8)
                self.q, self.k, self.v, self.asked = (torch.nn.Linear(8, 8, bias=False) for _ in range(4))
                self.gates = torch.nn.Linear(8, 16, bias=False)
            def forward(self, x, time, prompt):
                x = self.conv(F.silu(self.norm(x))) + self.time(time)[:, :, None, None]
                videos = x[None].reshape(2, 3, 8, 4, 4).permute(0, 2, 1, 3, 4)
                x = (videos + self.over(videos)).permute(0, 2, 1, 3, 4).reshape(6, 8, 4, 4)
                rows = self.tokens(x.permute(0, 2, 3, 1).reshape(6, 16, 8))
                heads = (layer(rows).view(6, 16, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
                rows = rows + F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(6, 16, 8) * 2.0
                first, second = self.gates(rows).chunk(2, dim=-1)
                q = self.asked(first * second).view(6, 16, 2, 4).transpose(1, 2)
                k, v = (layer(prompt).view(6, 5, 2, 4).transpose(1, 2) for layer in (self.k, self.v))
                return F.scaled_dot_product_attention(q, k, v), rows, x
        torch.manual_seed(0)
        x, time = (torch.cat([torch.randn(3, *shape)] * 2) for shape in [(8, 4, 4), (6,)])
        prompt = torch.randn(2, 5, 8).repeat_interleave(3, 0)
        inputs = x, time, prompt
        part = Part().eval()
        assert (twins.halves(inputs), [twins.run(each) for each in inputs]) == ((0, 1), [1, 1, 3])
        program = torch.export.export(part, inputs, strict=False)
        rewrites.rewrite(program, kernels=True, same=twins.halves(inputs), runs={2: 3})
        nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        def shapes(*names):
            found = [node for node in nodes if any(each in str(node.target) for each in names)]
            return sorted(tuple(node.meta["val"].shape) for node in found)
        print(shapes("conv2d", "temporal_conv", "linear.default", "group_norm"))
        print(len(shapes("repeat")))
        pairs = zip(program.module()(*inputs), part(*inputs), strict=True)
        print(max(float((mine - each).abs().max()) for mine, each in pairs))
        other = torch.export.export(part, inputs, strict=False)
        print(rewrites.rewrite(other, kernels=False)["halves"])
        """
    )
    assert shapes == str([
        (1, 3, 16, 8),  # of three frames, not of six
        (2, 5, 16),  # of two prompts, not of six
        (3, 8), (3, 8, 4, 4), (3, 16, 8), (3, 16, 8), (3, 16, 16), (3, 16, 24),
    ])  # fmt: skip
    assert twice == "3"  # what comes out, and what is asked
    assert float(off) < 1e-4
    assert other == "0"


def test_what_may_differ_between_halves_is_left_alone() -> None:
    """Where frames of both are brought together, or something else has a part in it."""
    (found,) = run(
        """
        import torch
        from app.adapters import rewrites
        class Part(torch.nn.Module):
            def forward(self, x, y):
                return x.permute(1, 0, 2, 3) * 2, x + y, x.reshape(1, 8, 4, 4).mean(1), x.transpose(0, 1) + x, x + y[:1]
        inputs = torch.cat([torch.randn(2, 4, 2, 4)] * 2), torch.randn(4, 4, 2, 4)
        part = Part()
        program = torch.export.export(part, inputs, strict=False)
        counts = rewrites.rewrite(program, kernels=False, same=[0])
        pairs = zip(program.module()(*inputs), part(*inputs), strict=True)
        print(counts["halves"], all(torch.equal(mine, each) for mine, each in pairs))
        """
    )
    assert found == "2 True"  # the reshaping, and the addition of what is the same for all


def test_weights_that_are_joined_are_one_input() -> None:
    names, off = run(
        """
        import torch
        from app.adapters import compiled, rewrites
        class Part(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.k = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 16, bias=False)
                self.out = torch.nn.Linear(16, 4)
            def forward(self, x):
                return self.out(self.k(x) + torch.cat([self.q(x)] * 2, -1))
        part, x = Part().eval(), torch.randn(3, 8)
        wanted = part(x)
        program = torch.export.export(part, (x,), strict=False)
        rewrites.rewrite(program, kernels=False)
        names = rewrites.join_weights(program, rewrites.inputs(program))
        print([*names.values()])
        weights = compiled.Weights(part, {})
        flat = [x if name is None else weights[name] for name in names.values()]
        (made,) = torch.fx.GraphModule(program.graph_module, program.graph_module.graph)(*flat)
        print(float((made - wanted).abs().max()))
        """
    )
    assert names == "[('k.weight', 'q.weight'), 'out.weight', 'out.bias', None]"
    assert float(off) < 1e-6


PARTS = """
    import dataclasses, json, sys, tempfile
    from pathlib import Path
    import torch
    import torch.utils._pytree as pytree
    from PIL import Image
    from app import adapters, smoke
    from app.adapters import compiled, rewrites, twins
    from app.adapters.base import Request
    from jingxiang import models
    from tests.peers import tiny_models

    name = sys.argv[1]
    spec = models.load(Path("app/models.toml")).model(name)
    folder = Path(sys.argv[2])
    {"smoke": smoke.make, "svd-xt": tiny_models.svd, "animatediff": tiny_models.animatediff}[name](folder)
    model = adapters.load(spec, folder)
    parts = {n: part for n, part in compiled.parts(model.pipe).items() if n != compiled.DECODER}
    seen = {}
    hooks = [
        part.register_forward_pre_hook(lambda _, a, k, n=n: seen.setdefault(n, (a, k)) and None, with_kwargs=True)
        for n, part in parts.items()
    ]
    preset = dataclasses.replace(spec.preset("fast"), guidance=3.0, steps=2, width=64, height=64, frames=3)
    picture = Image.radial_gradient("L").convert("RGB")
    model.generate([Request(picture, "a cat" if spec.takes_prompt else "", preset, 1)], lambda *_: None)
    for hook in hooks:
        hook.remove()
    torch.set_grad_enabled(False)
    for n, part in parts.items():
        arguments, named = seen[n]
        compiled.channels_last(part, last=True)
        for weight in part.parameters():
            weight.data = weight.data.clone()  # a file's begin anywhere in memory; those on a GPU do not
        program = torch.export.export(part, arguments, named, strict=False)
        given = [each for each in pytree.tree_leaves((arguments, named)) if isinstance(each, torch.Tensor)]
        counts = rewrites.rewrite(program, kernels=True, same=twins.halves(given), runs={
            number: twins.run(each) for number, each in enumerate(given) if twins.run(each) > 1
        })
        pairs = zip(pytree.tree_leaves(program.module()(*arguments, **named)),
                    pytree.tree_leaves(part(*arguments, **named)), strict=True)
        off = max(float((mine - each).abs().max() / each.abs().max()) for mine, each in pairs)
        left = sum(node.target is torch.ops.aten.conv3d.default for node in program.graph.nodes)
        print(json.dumps([n, off, left, counts]))
"""


@pytest.mark.e2e  # minutes: the interpreter works through whole networks
@pytest.mark.parametrize(("model", "rules"), [
    ("smoke", {"halves", "channels_last", "frames_in_place", "temporal_conv"}),
    ("svd-xt", {"one_key", "short_attention", "temporal_conv"}),
    ("animatediff", {"halves", "channels_last", "frames_in_place"}),
])  # fmt: skip
def test_every_part_of_a_model_gives_the_same(model: str, rules: set[str], tmp_path: Path) -> None:
    found = [json.loads(line) for line in run(PARTS, model, tmp_path / model) if line.startswith("[")]
    assert len(found) >= 5
    applied = {rule for *_, counts in found for rule, count in counts.items() if count}
    assert applied >= rules | {"nothing", "one_projection", "geglu", "added", "group_norm", "once"}
    for name, off, left, _ in found:
        assert off < 1e-4, name
        assert left == 0, name
