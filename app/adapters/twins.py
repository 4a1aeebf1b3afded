"""What is several times in a batch is calculated once.

With guidance a network sees each video twice, with its prompt and without. Both are the same until the first layer that
looks at the prompt: in U-Nets those before it are among the largest. And all frames of a video look at the same prompt.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

aten = torch.ops.aten
ELEMENTWISE = (
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.silu.default, aten.gelu.default,
    aten.to.dtype, aten.contiguous.default, aten.clone.default,
)  # fmt: skip
PICTURES = (aten.conv2d.default, aten.conv3d.default, aten.group_norm.default)  # whose first dimension is the batch
ATTENTION = aten.scaled_dot_product_attention.default
PICTURE = 4  # dimensions that one has at least: (pictures, channels, height, width)
RESHAPED = (aten.view.default, aten.reshape.default)
PARTS = (aten.chunk.default, aten.split_with_sizes.default)


def halve(graph: Graph, inputs: Sequence[Node]) -> int:
    """Make of one half whatever depends on these inputs alone, whose halves along the first dimension are equal.

    Gives how many operations that is. Where something else is looked at, as well, there are both halves again.
    """
    half = dict[Node, Node]()
    made = list[Node]()
    for node in list(graph.nodes):
        if node in inputs and _size(node) % 2 == 0:
            with graph.inserting_after(node):
                half[node] = _noted(graph.call_function(aten.slice.Tensor, (node, 0, 0, _size(node) // 2)))
        elif node.op == "call_function" and (arguments := _halved(node, half)) is not None:
            with graph.inserting_before(node):
                half[node] = _noted(graph.call_function(node.target, arguments, dict(node.kwargs)))
            made.append(node)
    for node in reversed(made):
        others = [user for user in node.users if user not in half]
        if others:
            with graph.inserting_before(node):
                both = _twice(graph, half[node], _axis(node))
            both.meta = dict(node.meta)
            node.replace_all_uses_with(both, delete_user_cb=lambda user: user not in half)
        graph.erase_node(node)
    for node in inputs:
        if node in half and not half[node].users:
            graph.erase_node(half[node])
    return len(made)


def one_context(graph: Graph, runs: dict[Node, int]) -> int:
    """Let a linear layer multiply one of so many sequences one after the other that are equal: keys and values that all
    frames of a video share.

    Gives how many layers do.
    """
    found = 0
    for values, run in runs.items():
        sequences, tokens, channels = _shape(values)
        for node in [user for user in values.users if user.target is aten.linear.default and user.args[0] is values]:
            width = _shape(node)[-1]
            with graph.inserting_before(node):
                new = graph.call_function(aten.reshape.default, (values, [-1, run, tokens, channels]))
                new = graph.call_function(aten.select.int, (new, 1, 0))
                new = graph.call_function(aten.linear.default, (new, *node.args[1:]))
                new = graph.call_function(aten.unsqueeze.default, (new, 1))
                new = graph.call_function(aten.expand.default, (new, [sequences // run, run, tokens, width]))
                new = graph.call_function(aten.reshape.default, (new, [sequences, tokens, width]))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            found += 1
    return found


def is_twin(values: torch.Tensor) -> bool:
    """Whether its halves are equal. Waits for whatever calculates them."""
    if values.ndim == 0 or values.shape[0] % 2 or not values.numel():
        return False
    first, second = values.chunk(2)
    return bool(torch.equal(first, second))


def halves(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Which of these have equal halves; none if the largest picture has not: there is little to gain then."""
    pictures = [each for each in tensors if each.ndim >= PICTURE]
    if not pictures or not is_twin(max(pictures, key=torch.numel)):
        return ()
    return tuple(number for number, each in enumerate(tensors) if is_twin(each))


def run(values: torch.Tensor) -> int:
    """How many sequences one after the other are equal each time, of shape (sequences, tokens, channels); else 1."""
    if values.ndim != 3 or len(values) < 2:
        return 1
    others = (values[1:] != values[0]).flatten(1).any(1).nonzero()
    found = int(others[0]) + 1 if len(others) else len(values)
    return found if is_run(values, found) else 1


def is_run(values: torch.Tensor, run: int) -> bool:
    """Whether so many one after the other are equal each time. Waits for whatever calculates them."""
    return len(values) % run == 0 and bool(torch.equal(values, values[::run].repeat_interleave(run, 0)))


def _halved(node: Node, half: dict[Node, Node]) -> tuple[Any, ...] | None:
    """What it has to be called with to give one half of its result, whose halves are equal; None if they may differ."""
    if not any(each in half for each in node.all_input_nodes):
        return None
    if node.target is operator.getitem:
        return half[node.args[0]], node.args[1]
    values = node.args[0]
    if values not in half and node.target not in ELEMENTWISE:
        return None
    new: tuple[Any, ...] = map_arg(node.args, lambda each: half.get(each, each))
    if node.target in PARTS:
        dimension = node.args[2] if len(node.args) > 2 else 0
        return new if dimension % len(_shape(values)) > _axis(values) else None
    axis = _axis(node)
    if _shape(node)[axis : axis + 1] == () or _shape(node)[axis] % 2:
        return None
    if node.target in ELEMENTWISE:
        return new if all(_fits(each, node, half) for each in node.all_input_nodes) else None
    if node.target in RESHAPED:
        shape = list(node.args[1])
        shape[axis] = shape[axis] if shape[axis] == -1 else shape[axis] // 2
        return new[0], shape
    if node.target in (aten.unsqueeze.default, aten.squeeze.dim):
        return new
    if node.target in (aten.permute.default, aten.transpose.int):
        return new if _order(node).index(_axis(values)) == axis else None
    others = [each for each in node.all_input_nodes if each is not values]
    if node.target is ATTENTION:
        plain = len(node.args) == 3 and not node.kwargs  # nothing left to chance
        return new if plain and _axis(values) == 0 and all(each in half for each in others) else None
    if any(each.op != "placeholder" or each in half for each in others):
        return None
    if node.target in PICTURES:
        return new if _axis(values) == 0 else None
    if node.target is aten.linear.default:
        return new if _axis(values) < len(_shape(values)) - 1 else None
    if node.target is aten.layer_norm.default:
        return new if _axis(values) < len(_shape(values)) - len(node.args[1]) else None
    return None


def _twice(graph: Graph, values: Node, axis: int) -> Node:
    """Both halves one after the other, lying in memory as one does; pictures channels last, as they will lie."""
    strides, shape = values.meta["val"].stride(), list(_shape(values))
    order = [*range(axis + 1), *sorted(range(axis + 1, len(shape)), key=lambda dimension: -strides[dimension])]
    if len(order) == PICTURE and axis == 0 and values.target is not aten.transpose.int:  # that gives heads
        order = [0, 2, 3, 1]
    shape[axis] *= 2
    new = graph.call_function(aten.permute.default, (values, order))
    new = graph.call_function(aten.reshape.default, (new, [1, -1]))
    new = graph.call_function(aten.repeat.default, (new, [2, 1]))
    new = graph.call_function(aten.reshape.default, (new, [shape[each] for each in order]))
    return graph.call_function(aten.permute.default, (new, [order.index(each) for each in range(len(order))]))


def _fits(values: Node, result: Node, half: dict[Node, Node]) -> bool:
    """Whether what an element of the result is made of is in the same half, or the same for both."""
    place = _axis(result) - len(_shape(result))  # from the end
    if values in half:
        return _axis(values) - len(_shape(values)) == place
    return len(_shape(values)) < -place or _shape(values)[place] == 1


def _order(node: Node) -> list[int]:
    """Which dimensions of what is permuted those of the result are."""
    if node.target is aten.permute.default:
        return [each % len(_shape(node)) for each in node.args[1]]
    order = [*range(len(_shape(node)))]
    one, other = node.args[1:]
    order[one], order[other] = order[other], order[one]
    return order


def _axis(node: Node) -> int:
    """The first dimension that is more than one: the one that has the halves."""
    return next((number for number, size in enumerate(_shape(node)) if size > 1), len(_shape(node)))


def _size(node: Node) -> int:
    return _shape(node)[0] if _axis(node) == 0 and _shape(node) else 1


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _noted(node: Node) -> Node:
    """It with the shape of what it gives."""
    arguments, named = map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
    mode = next(each.meta["val"] for each in node.all_input_nodes)
    mode = mode[0] if isinstance(mode, (list, tuple)) else mode
    with mode.fake_mode:
        node.meta["val"] = node.target(*arguments, **named)
    return node
