"""What an exported part of a network is rewritten to before it is compiled: the same numbers, but for rounding, faster.

Each rule looks for a pattern in the graph that `torch.export` gives, which is the same for all models here, however
their modules are written, and says how often it found it. They are told nothing of the model.

Everything is brought to where all channels of a pixel lie side by side, since that is how GPUs convolve.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch._inductor.inductor_prims
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from app.adapters import twins

aten = torch.ops.aten
MOST_FRAMES = 32  # that `kernels.short_attention` takes
NAMESPACE = "jingxiang"  # of our kernels
# Of the compiler itself: puts values into memory with these strides, unless they lie there like that.
FORCE = torch.ops.prims.inductor_force_stride_order.default
THERE = (FORCE, aten.scaled_dot_product_attention.default)  # what these give is in memory, as it is read
ALIGNED = 8  # numbers of 16 bits
VIEWS = (aten.view.default, aten.reshape.default, aten.transpose.int)
SHAPES = (*VIEWS, aten.permute.default, aten.unsqueeze.default, aten.squeeze.dim)

Rule: TypeAlias = Callable[[Graph], int]
# Of what is compiled, by input: a weight, some that are joined, or None: a tensor that it is called with.
Names: TypeAlias = dict[Node, str | tuple[str, ...] | None]


def rewrite(
    program: ExportedProgram, *, kernels: bool, same: Sequence[int] = (), runs: Mapping[int, int] | None = None
) -> dict[str, int]:
    """Apply all rules to it; with `kernels`, those with kernels of our own as well, for which `kernels` is imported.

    Of the tensors that it is called with, those in `same` have equal halves, and those in `runs` so many sequences one
    after the other that are equal. Gives how often each rule was applied.
    """
    module = program.graph_module
    if kernels:
        import app.adapters.kernels  # noqa: F401 (it registers them)
    for node in _calls(module.graph, aten._assert_tensor_metadata.default):
        module.graph.erase_node(node)  # it keeps what it asserts alive
    called = [node for node, name in inputs(program).items() if name is None]

    def halves(graph: Graph) -> int:
        return twins.halve(graph, [called[number] for number in same])

    def one_context(graph: Graph) -> int:
        return twins.one_context(graph, {called[number]: run for number, run in (runs or {}).items()})

    counts = {}
    for rule in (nothing, channels_last, halves, *RULES, one_context, *(KERNEL_RULES if kernels else ())):
        counts[rule.__name__] = rule(module.graph)
        if counts[rule.__name__]:
            _settle(module)
    return counts


def inputs(program: ExportedProgram) -> Names:
    """All inputs that are tensors, in their order."""
    places = [node for node in program.graph.nodes if node.op == "placeholder"]
    named = zip(places, program.graph_signature.input_specs, strict=True)
    return {
        node: None if spec.kind is InputKind.USER_INPUT else spec.target
        for node, spec in named
        if isinstance(spec.arg, TensorArgument)
    }


def join_weights(program: ExportedProgram, names: Names) -> Names:
    """Weights that `one_projection` joins become one input, which is joined once, not each time it runs."""
    graph, weights = program.graph_module.graph, program.graph_signature.parameters
    found = dict(names)
    for node in _calls(graph, aten.cat.default):
        joined = node.args[0]
        if list(node.args[1:]) != [0] or any(found.get(each) not in weights or len(each.users) > 1 for each in joined):
            continue
        with graph.inserting_before(joined[0]):
            new = graph.placeholder(f"{joined[0].target}_and_more")
        _replace(node, new)
        found[new] = tuple(str(found.pop(each)) for each in joined)
        for each in joined:
            graph.erase_node(each)
    graph.lint()
    return {node: found[node] for node in graph.nodes if node in found}


def channels_last(graph: Graph) -> int:
    """What is made contiguous lies channels last instead. It is called so where a transformer gives back pixels."""
    found = 0
    for node in _calls(graph, aten.contiguous.default):
        values = node.args[0]
        dimensions = len(_shape(values))
        if dimensions in (4, 5):  # (pictures, channels, height, width) or (videos, frames, channels, height, width)
            channel = dimensions - 3
            order = [each for each in range(dimensions) if each != channel] + [channel]
            with graph.inserting_before(node):
                moved = graph.call_function(aten.permute.default, (values, order))
                moved = graph.call_function(aten.contiguous.default, (moved,))
                back = [order.index(each) for each in range(dimensions)]
                new = graph.call_function(aten.permute.default, (moved, back))
            _replace(node, new)
            found += 1
    return found


def nothing(graph: Graph) -> int:
    """What changes nothing: division by one, a type that values have already, dropping out while nobody trains."""
    found = 0
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is not aten.contiguous.default and _is_nothing(node):
            _replace(node, node.args[0])
            found += 1
    return found


def one_key(graph: Graph) -> int:
    """Attention to a single key gives its value, whatever is asked: Stable Video Diffusion's to its picture.

    So does the linear layer after it, which then has a single row to multiply.
    """
    found = 0
    for node in _calls(graph, aten.scaled_dot_product_attention.default):
        query, key, value = node.args[:3]
        if _shape(key)[2] != 1 or not _plain(node):
            continue
        queries, heads, _, size = _shape(query)
        end = _linear_after(node) or node
        with graph.inserting_before(end):
            new = value
            if end is not node:
                new = graph.call_function(aten.transpose.int, (new, 1, 2))
                new = graph.call_function(aten.reshape.default, (new, [queries, heads * size]))
                new = graph.call_function(aten.linear.default, (new, *end.args[1:]))
                new = graph.call_function(aten.unsqueeze.default, (new, 1))
            new = graph.call_function(aten.expand.default, (new, list(_shape(end))))
        _replace(end, new)
        found += 1
    return found


def one_projection(graph: Graph) -> int:
    """Linear layers that read the same are one with their weights side by side: queries, keys and values."""
    groups: dict[Node, list[Node]] = {}
    for node in _calls(graph, aten.linear.default):
        if len(node.args) == 2 and node.args[1].op == "placeholder":
            groups.setdefault(node.args[0], []).append(node)
    together = [group for group in groups.values() if len(group) > 1]
    for group in together:
        with graph.inserting_before(group[0]):
            weight = graph.call_function(aten.cat.default, ([node.args[1] for node in group], 0))
            joined = graph.call_function(aten.linear.default, (group[0].args[0], weight))
            sizes = [_shape(node.args[1])[0] for node in group]
            parts = graph.call_function(aten.split_with_sizes.default, (joined, sizes, -1))
            new = [graph.call_function(operator.getitem, (parts, number)) for number in range(len(group))]
        for node, each in zip(group, new, strict=True):
            _replace(node, each)
    return len(together)


def frames_in_place(graph: Graph) -> int:
    """Attention between the frames of each pixel leaves all values where they are.

    A temporal transformer brings the frames of a pixel side by side, and back at its end. All that it does between is
    done to each frame of a pixel alone, but for the attention: our own finds the frames where they are.
    """
    found = 0
    for start in _calls(graph, aten.reshape.default):
        region = _Region.at(start)
        if region is not None:
            region.rewrite(graph)
            found += 1
    return found


def short_attention(graph: Graph) -> int:
    """The same where frames have been brought side by side in other ways."""
    found = 0
    for node in _calls(graph, aten.scaled_dot_product_attention.default):
        query, key, _ = node.args[:3]
        sequences, heads, tokens, size = _shape(query)
        joined = _joined(node)
        if joined is not None and _plain(node) and tokens == _shape(key)[2] <= MOST_FRAMES:
            with graph.inserting_before(node):
                values = graph.call_function(aten.reshape.default, (joined, [sequences, tokens, 1, 3 * heads * size]))
                new = graph.call_function(torch.ops.jingxiang.short_attention.default, (values, heads))
                new = graph.call_function(aten.reshape.default, (new, [sequences, tokens, heads, size]))
                new = graph.call_function(aten.transpose.int, (new, 1, 2))
            _replace(node, new)
            found += 1
    return found


def temporal_conv(graph: Graph) -> int:
    """Convolutions over three frames of each pixel."""
    found = 0
    for node in _calls(graph, aten.conv3d.default):
        values, weight, bias, stride, padding, dilation, groups = _with_defaults(node, None, [1], [0], [1], 1)
        width, channels, *kernel = _shape(weight)
        usual = {*stride, *dilation, groups} == {1} and list(padding) == [1, 0, 0] and bias is not None
        if kernel == [3, 1, 1] and usual and _is_aligned(weight):
            videos, _, frames, high, wide = _shape(values)
            with graph.inserting_before(node):
                flat = graph.call_function(aten.permute.default, (values, [0, 2, 3, 4, 1]))
                flat = graph.call_function(aten.reshape.default, (flat, [videos, frames, high * wide, channels]))
                taps = graph.call_function(aten.permute.default, (weight, [0, 2, 3, 4, 1]))  # as it lies in memory
                taps = graph.call_function(aten.reshape.default, (taps, [width, 3, channels]))
                new = graph.call_function(torch.ops.jingxiang.temporal_conv.default, (flat, taps, bias))
                new = graph.call_function(aten.reshape.default, (new, [videos, frames, high, wide, width]))
                new = graph.call_function(aten.permute.default, (new, [0, 4, 1, 2, 3]))
            _replace(node, new)
            found += 1
    return found


def geglu(graph: Graph) -> int:
    """Gated linear layers."""
    found = 0
    for node in _calls(graph, aten.mul.Tensor):
        layer = _gated(node)
        if layer is not None and _is_aligned(layer.args[1], halves=True):
            values, weight, bias = layer.args
            with graph.inserting_before(node):
                flat = graph.call_function(aten.reshape.default, (values, [-1, _shape(weight)[1]]))
                new = graph.call_function(torch.ops.jingxiang.geglu.default, (flat, weight, bias))
                new = graph.call_function(aten.reshape.default, (new, list(_shape(node))))
            _replace(node, new)
            found += 1
    return found


def added(graph: Graph) -> int:
    """What is added to the result of a linear layer or of a convolution over frames is added while that is made."""
    found = 0
    for node in _calls(graph, aten.add.Tensor):
        if len(node.args) != 2 or node.kwargs:
            continue
        for mine, other in (node.args, node.args[::-1]):
            if not isinstance(mine, Node) or not isinstance(other, Node) or not _alike(mine, other):
                continue
            source, between = _source(mine)
            if not _takes_added(source):
                continue
            with graph.inserting_before(node):
                for each in reversed(between):
                    other = _undone(graph, each, other)
                new = _with_added(graph, source, other)
                for each in between:
                    if _is_nothing(each):
                        continue
                    new = graph.node_copy(each, lambda one, each=each, new=new: new if one is each.args[0] else one)
            _replace(node, new)
            found += 1
            break
    return found


def group_norm(graph: Graph) -> int:
    """Group norms, with SiLU if that is all that comes after."""
    found = 0
    for node in _calls(graph, aten.group_norm.default):
        values, groups, weight, bias, epsilon = _with_defaults(node, None, None, 1e-5)[:5]
        if weight is None or bias is None:
            continue
        parts, channels, *positions = _shape(values)
        users = list(node.users)
        silu = len(users) == 1 and users[0].target is aten.silu.default
        with graph.inserting_before(node):
            flat = graph.call_function(aten.permute.default, (values, [0, *range(2, 2 + len(positions)), 1]))
            flat = graph.call_function(aten.reshape.default, (flat, [parts, math.prod(positions), channels]))
            new = graph.call_function(
                torch.ops.jingxiang.group_norm.default, (flat, weight, bias, groups, epsilon, silu)
            )
            new = graph.call_function(aten.reshape.default, (new, [parts, *positions, channels]))
            new = graph.call_function(
                aten.permute.default, (new, [0, 1 + len(positions), *range(1, 1 + len(positions))])
            )
        _replace(users[0] if silu else node, new)
        found += 1
    return found


def once(graph: Graph) -> int:
    """What our kernels read is put into memory once, channels last, for all who read it.

    The compiler would rather calculate such values again wherever they are read, which our kernels do not let it: so it
    writes them once for each kernel.
    """
    found = 0
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "namespace", "") != NAMESPACE:
            continue
        for base in dict.fromkeys(_base(each) for each in node.all_input_nodes):
            if base.op != "call_function" or base.target in THERE or getattr(base.target, "namespace", "") == NAMESPACE:
                continue
            with graph.inserting_after(base):
                strides = _strides(_shape(base), channels_last=base.target is not aten.contiguous.default)
                new = graph.call_function(FORCE, (base, strides))
            new.meta = dict(base.meta)
            base.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)
            found += 1
    return found


RULES: tuple[Rule, ...] = (one_key, one_projection)
KERNEL_RULES: tuple[Rule, ...] = (frames_in_place, short_attention, temporal_conv, geglu, added, group_norm, once)


class _Region:
    """What a temporal transformer does, from where it brings the frames of a pixel side by side to where it ends."""

    # Done to each frame of a pixel alone, whatever the dimensions before the last one are.
    ALONE = (
        aten.linear.default, aten.layer_norm.default, aten.div.Tensor, aten.mul.Tensor,
        aten.add.Tensor, aten.gelu.default, aten.chunk.default, aten.split_with_sizes.default, operator.getitem,
        aten.to.dtype,
    )  # fmt: skip
    BOTH = (aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor)

    def __init__(self, start: Node, end: Node, attentions: list[Node], per_frame: list[tuple[Node, Node]]) -> None:
        """`end` gives back five dimensions, and is followed by permutations only. `per_frame`: what is added for each
        frame, and where.
        """
        self.start, self.end, self.attentions, self.per_frame = start, end, attentions, per_frame

    @classmethod
    def at(cls, start: Node) -> _Region | None:
        """The one that begins at this node, if one does, and nothing in it is unknown."""
        moved = start.args[0]
        if not isinstance(moved, Node) or moved.target is not aten.permute.default:
            return None
        if list(moved.args[1]) != [0, 3, 4, 2, 1] or len(_shape(start)) != 3:
            return None
        videos, high, wide, frames, channels = _shape(moved)
        if _shape(start) != (videos * high * wide, frames, channels) or frames > MOST_FRAMES:
            return None
        seen, waiting, ends = {start}, [start], set[Node]()
        attentions: list[Node] = []
        while waiting:
            for user in waiting.pop().users:
                if user in seen:
                    continue
                seen.add(user)
                if user.target is aten.unsqueeze.default and user.args[1] in (0, 1):
                    waiting.append(user)
                elif user.target in VIEWS and _shape(user) == (videos, high, wide, frames, channels):
                    ends.add(user)
                elif user.target in VIEWS:
                    attention = _attention_of(user, tokens=frames)
                    if attention is None:
                        return None
                    if attention not in attentions:
                        attentions.append(attention)
                        waiting.append(_after(attention))
                elif user.target in cls.ALONE and all(_last_alone(user)):
                    waiting.append(user)
                else:
                    return None
        per_frame = []
        for node in seen:
            for other in node.args if node.target in cls.BOTH else ():
                if isinstance(other, Node) and other not in seen and len(_shape(other)) > 1:
                    if node.target is not aten.add.Tensor or _shape(other) != (1, frames, _shape(node)[-1]):
                        return None
                    per_frame.append((node, other))
        back = [[each.target, *each.args[1:]] for end in ends for each in end.users]
        if len(ends) != 1 or not back or any(each != [aten.permute.default, [0, 3, 4, 1, 2]] for each in back):
            return None
        return cls(start, ends.pop(), attentions, per_frame)

    def rewrite(self, graph: Graph) -> None:
        moved = self.start.args[0]
        videos, high, wide, frames, channels = _shape(moved)
        for attention in self.attentions:
            heads, _, size = _shape(attention.args[0])[1:]
            joined, last = _joined(attention), _after(attention)
            with graph.inserting_before(last):
                new = graph.call_function(
                    aten.reshape.default, (joined, [videos, frames, high * wide, 3 * heads * size])
                )
                new = graph.call_function(torch.ops.jingxiang.short_attention.default, (new, heads))
                new = graph.call_function(aten.reshape.default, (new, [videos * frames, high * wide, heads * size]))
            _replace(last, new)
        for node, other in self.per_frame:
            with graph.inserting_before(node):
                new = graph.call_function(aten.reshape.default, (other, [frames, 1, _shape(node)[-1]]))
                new = graph.call_function(aten.repeat.default, (new, [videos, 1, 1]))
            node.replace_input_with(other, new)
        with graph.inserting_before(self.start):
            new = graph.call_function(aten.permute.default, (moved.args[0], [0, 2, 3, 4, 1]))
            new = graph.call_function(aten.reshape.default, (new, [videos * frames, high * wide, channels]))
        _replace(self.start, new)
        values = self.end.args[0]
        while values.target is aten.unsqueeze.default:
            values = values.args[0]
        for end in list(self.end.users):
            with graph.inserting_before(end):
                new = graph.call_function(aten.reshape.default, (values, [videos, frames, high, wide, channels]))
                new = graph.call_function(aten.permute.default, (new, [0, 1, 4, 2, 3]))
            _replace(end, new)


def _last_alone(node: Node) -> Iterator[bool]:
    """Whether parts are taken along the last dimension only."""
    if node.target in (aten.chunk.default, aten.split_with_sizes.default):
        yield len(node.args) == 3 and node.args[2] in (-1, len(_shape(node.args[0])) - 1)


def _attention_of(view: Node, tokens: int) -> Node | None:
    """The attention that such a view is a query, key or value of; None if it is none of our kind."""
    node = view
    while node.target in VIEWS:
        if len(node.users) != 1:
            return None
        node = next(iter(node.users))
    known = node.target is aten.scaled_dot_product_attention.default and _plain(node) and _joined(node) is not None
    return node if known and _shape(node.args[0])[2] == tokens == _shape(node.args[1])[2] and _after(node) else None


def _linear_after(attention: Node) -> Node | None:
    """The linear layer that takes what an attention gives, and nobody else."""
    last = _after(attention)
    if last is None or len(last.users) != 1:
        return None
    node = next(iter(last.users))
    return node if node.target is aten.linear.default and node.args[0] is last and len(_shape(node)) == 3 else None


def _after(attention: Node) -> Any:
    """Where heads have been brought side by side again; None if that is not how it goes on."""
    node = attention
    for target in ((aten.transpose.int,), (aten.reshape.default, aten.view.default)):
        if len(node.users) != 1:
            return None
        node = next(iter(node.users))
        if node.target not in target:
            return None
    return node


def _joined(attention: Node) -> Node | None:
    """The projection whose result has what an attention is given side by side, as `one_projection` has it."""
    sources = []
    for node in attention.args[:3]:
        while node.target in VIEWS:
            node = node.args[0]
        sources.append(node)
    if any(node.target is not operator.getitem for node in sources):
        return None
    parts = {node.args[0] for node in sources}
    if len(parts) > 1 or [node.args[1] for node in sources] != [0, 1, 2]:
        return None
    split = parts.pop()
    return split.args[0] if split.target is aten.split_with_sizes.default and len(split.args[1]) == 3 else None


def _gated(node: Node) -> Node | None:
    """The linear layer, if this is one half of its result by GELU of the other."""
    value, gate = node.args
    if not isinstance(gate, Node) or gate.target is not aten.gelu.default or gate.kwargs or not isinstance(value, Node):
        return None
    half = gate.args[0]
    if value.target is not operator.getitem or half.target is not operator.getitem:
        return None
    if value.args[0] is not half.args[0] or (value.args[1], half.args[1]) != (0, 1):
        return None
    layer = half.args[0].args[0]
    return layer if layer.target is aten.linear.default and len(layer.args) == 3 else None


def _base(node: Node) -> Node:
    """What this is a view of."""
    while node.target in SHAPES:
        node = node.args[0]
    return node


def _strides(shape: tuple[int, ...], *, channels_last: bool) -> list[int]:
    """Of pictures and videos, (pictures, channels, ...), as is wanted; other values lie as they are read."""
    order = [*range(len(shape))]
    if channels_last and len(shape) > 3:
        order = [0, *order[2:], 1]
    strides, step = [0] * len(shape), 1
    for dimension in reversed(order):
        strides[dimension] = step
        step *= shape[dimension]
    return strides


def _source(node: Node) -> tuple[Node, list[Node]]:
    """Where values come from that only change their shape on the way, and by what; each used by nobody else."""
    between: list[Node] = []
    while len(node.users) == 1 and (node.target in SHAPES or _is_nothing(node)):
        between.insert(0, node)
        node = node.args[0]
    return node, between


def _is_nothing(node: Node) -> bool:
    """Whether it gives what it is given."""
    if node.target is aten.dropout.default:
        return node.args[2] is False
    if node.target is aten.contiguous.default:
        return len(node.args) == 1 and not node.kwargs
    if node.target is aten.to.dtype:
        return len(node.args) == 2 and node.args[0].meta["val"].dtype is node.args[1]
    if node.target not in (aten.div.Tensor, aten.mul.Tensor) or node.args[1] != 1:
        return False
    return node.meta["val"].dtype is node.args[0].meta["val"].dtype


def _undone(graph: Graph, node: Node, values: Node) -> Node:
    """Values that have the shape of the result, in the shape of what it was made of."""
    if _is_nothing(node):
        return values
    target, before = node.target, _shape(node.args[0])
    if target is aten.permute.default:
        order = list(node.args[1])
        return graph.call_function(target, (values, [order.index(each) for each in range(len(order))]))
    if target is aten.transpose.int:
        return graph.call_function(target, (values, *node.args[1:]))
    return graph.call_function(aten.reshape.default, (values, list(before)))


def _takes_added(source: Node) -> bool:
    if len(source.users) != 1:
        return False
    if source.target is torch.ops.jingxiang.temporal_conv.default:
        return len(source.args) == 3
    return source.target is aten.linear.default and len(source.args) == 3 and _is_aligned(source.args[1])


def _with_added(graph: Graph, source: Node, other: Node) -> Node:
    values, weight, bias = source.args
    if source.target is torch.ops.jingxiang.temporal_conv.default:
        return graph.call_function(source.target, (values, weight, bias, other))
    width, channels = _shape(weight)
    flat = graph.call_function(aten.reshape.default, (values, [-1, channels]))
    other = graph.call_function(aten.reshape.default, (other, [-1, width]))
    new = graph.call_function(torch.ops.jingxiang.linear_added.default, (flat, weight, bias, other))
    return graph.call_function(aten.reshape.default, (new, list(_shape(source))))


def _is_aligned(weight: Node, *, halves: bool = False) -> bool:
    """Whether rows of what a layer is given and gives begin where the hardware can bring them from: at multiples of 16
    bytes. `halves`: it gives half as much as its weight is wide.
    """
    width, *inner = _shape(weight)
    return width % (2 * ALIGNED if halves else ALIGNED) == 0 and inner[0] % ALIGNED == 0


def _alike(one: Node, other: Node) -> bool:
    return _shape(one) == _shape(other) and one.meta["val"].dtype is other.meta["val"].dtype


def _plain(attention: Node) -> bool:
    """Without a mask, chance or a scale of its own."""
    return len(attention.args) == 3 and not attention.kwargs


def _calls(graph: Graph, target: object) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function" and node.target is target]


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _with_defaults(node: Node, *defaults: object) -> list[Any]:
    """All arguments; the last ones are these where they are not given."""
    given = list(node.args)
    missing = 2 + len(defaults) - len(given)
    return given + list(defaults[len(defaults) - missing :]) if missing > 0 else given


def _replace(old: Node, new: Node) -> None:
    new.meta.setdefault("val", old.meta["val"])
    old.replace_all_uses_with(new)
    _remove(old)


def _remove(node: Node) -> None:
    """And what nobody else needs. `eliminate_dead_code` leaves attention: it could draw random numbers."""
    if node.op == "call_function" and not node.users:
        inputs = node.all_input_nodes
        node.graph.erase_node(node)
        for each in inputs:
            _remove(each)


def _settle(module: GraphModule) -> None:
    """Remove what nobody needs any more, and note the shapes of what is new."""
    graph = module.graph
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    inputs = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    mode = next(value.fake_mode for value in inputs if isinstance(value, torch._subclasses.FakeTensor))
    FakeTensorProp(module, mode).propagate_dont_convert_inputs(*inputs)
