"""Kernels of our own for a GPU, where PyTorch's do not suit videos. Imports Triton, which builds for CUDA bring along.

Values lie in memory channels last: those of a pixel side by side. All sums are in fp32, as in PyTorch's own kernels.
What the sizes of tiles are was measured on an H100.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

ROWS = 64  # tokens that one program of the attention works on: several short sequences, side by side
TILE = 64  # channels that a program of a norm works on, and positions at a time
PROGRAMS = 1024  # enough for every card to be busy
GROUP = 8  # tiles of a product that share what they read
PRODUCT = {"M": 128, "N": 128, "K": 64, "num_stages": 3}  # of a matrix product: rows, columns, and what is summed over


@triton_op("jingxiang::short_attention", mutates_args=())
def short_attention(joined: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention between the frames of each pixel: 32 frames at most.

    Takes queries, keys and values side by side, of shape (videos, frames, pixels, 3 * heads * size), and gives shape
    (videos, frames, pixels, heads * size). What PyTorch has takes 128 tokens at a time, most of which are not there.
    """
    joined = joined.contiguous()
    videos, frames, pixels, width = joined.shape
    width //= 3
    out = joined.new_empty((videos, frames, pixels, width))
    padded = triton.next_power_of_2(frames)
    at_once = max(1, ROWS // padded)
    wrap_triton(_short_attention)[(triton.cdiv(videos * pixels, at_once) * heads,)](
        joined, out, videos * pixels, (width // heads) ** -0.5, PIXELS=pixels, HEADS=heads, FRAMES=frames,
        PADDED=padded, WIDTH=width, SIZE=width // heads, SIZE_PADDED=triton.next_power_of_2(width // heads),
        ROWS=at_once * padded,
    )  # fmt: skip
    return out


@short_attention.register_fake
def _(joined: torch.Tensor, heads: int) -> torch.Tensor:
    return joined.new_empty((*joined.shape[:3], joined.shape[3] // 3))


@triton.jit
def _short_attention(
    joined, out, sequences, scale, PIXELS: tl.constexpr, HEADS: tl.constexpr, FRAMES: tl.constexpr,
    PADDED: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, SIZE_PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    token = tl.arange(0, ROWS)
    head = tl.program_id(0) % HEADS  # neighbours in memory at the same time
    sequence = tl.program_id(0) // HEADS * (ROWS // PADDED) + token // PADDED
    frame = token % PADDED
    part = tl.arange(0, SIZE_PADDED)
    there = ((sequence < sequences) & (frame < FRAMES))[:, None] & (part < SIZE)[None, :]
    row = ((sequence // PIXELS * FRAMES + frame) * PIXELS + sequence % PIXELS).to(tl.int64)[:, None]
    column = head * SIZE + part[None, :]
    q = tl.load(joined + row * (3 * WIDTH) + column, mask=there, other=0.0)
    k = tl.load(joined + row * (3 * WIDTH) + WIDTH + column, mask=there, other=0.0)
    v = tl.load(joined + row * (3 * WIDTH) + 2 * WIDTH + column, mask=there, other=0.0)
    scores = tl.dot(q, tl.trans(k)) * scale
    together = ((token // PADDED)[:, None] == (token // PADDED)[None, :]) & (frame < FRAMES)[None, :]
    scores = tl.where(together, scores, -1.0e30)
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    tl.store(out + row * WIDTH + column, tl.dot(weights.to(v.dtype), v).to(v.dtype), mask=there)


@triton_op("jingxiang::group_norm", mutates_args=())
def group_norm(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, epsilon: float, silu: bool
) -> torch.Tensor:
    """Group norm, and SiLU after it if wanted, of shape (parts, positions, channels), lying in memory like that.

    Channels that lie side by side are read together; what a compiler makes of group norm reads one group after another.
    """
    values = values.contiguous()
    parts, positions, channels = values.shape
    tiles = triton.cdiv(channels, TILE)
    blocks = min(triton.cdiv(positions, TILE), triton.cdiv(PROGRAMS, tiles * parts))
    rows = triton.cdiv(triton.cdiv(positions, blocks), TILE) * TILE
    blocks = triton.cdiv(positions, rows)
    sums = values.new_empty((2, parts, blocks, channels), dtype=torch.float32)
    wrap_triton(_block_moments)[(blocks, tiles, parts)](
        values, sums, parts * blocks * channels, POSITIONS=positions, CHANNELS=channels, ROWS=rows, TILE=TILE
    )
    moments = values.new_empty((2, parts, groups), dtype=torch.float32)
    wrap_triton(_group_moments)[(groups, parts)](
        sums, moments, parts * blocks * channels, parts * groups, epsilon, POSITIONS=positions, BLOCKS=blocks,
        GROUPS=groups, CHANNELS=channels, SIZE=channels // groups,
        SIZE_PADDED=triton.next_power_of_2(channels // groups), ROWS=rows, AT_ONCE=TILE,
    )  # fmt: skip
    out = torch.empty_like(values)
    wrap_triton(_normalized)[(triton.cdiv(positions, 2 * TILE), tiles, parts)](
        values, moments, weight, bias, out, parts * groups, POSITIONS=positions, CHANNELS=channels,
        SIZE=channels // groups, GROUPS=groups, ROWS=2 * TILE, TILE=TILE, SILU=silu,
    )  # fmt: skip
    return out


@group_norm.register_fake
def _(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, epsilon: float, silu: bool
) -> torch.Tensor:
    return values.new_empty(values.shape)


@triton.jit
def _block_moments(
    values, sums, half, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Of each channel in a block of positions: its mean, and the sum of squares around that."""
    block, part = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    start = values + part.to(tl.int64) * POSITIONS * CHANNELS
    # Around the first value of the block, since a mean that is large beside the spread would leave nothing of it.
    first = block * ROWS
    shift = tl.load(start + first * CHANNELS + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    total = tl.zeros((TILE, TILE), tl.float32)
    squares = tl.zeros((TILE, TILE), tl.float32)
    for row in range(0, ROWS, TILE):
        position = first + row + tl.arange(0, TILE)
        there = (position < POSITIONS)[:, None] & (channel < CHANNELS)[None, :]
        found = tl.load(start + position[:, None] * CHANNELS + channel[None, :], mask=there, other=0.0).to(tl.float32)
        apart = tl.where(there, found - shift[None, :], 0.0)
        total += apart
        squares += apart * apart
    count = tl.minimum(ROWS, POSITIONS - first)
    change = tl.sum(total, 0) / count
    mean = shift + change
    around = tl.maximum(tl.sum(squares, 0) - change * change * count, 0.0)
    to = sums + (part * tl.num_programs(0) + block) * CHANNELS + channel
    tl.store(to, mean, mask=channel < CHANNELS)
    tl.store(to + half, around, mask=channel < CHANNELS)


@triton.jit
def _group_moments(
    sums, moments, half, half_moments, epsilon, POSITIONS: tl.constexpr, BLOCKS: tl.constexpr, GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr, SIZE: tl.constexpr, SIZE_PADDED: tl.constexpr, ROWS: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Of each group: its mean, and one by its standard deviation."""
    group, part = tl.program_id(0), tl.program_id(1)
    inner = tl.arange(0, SIZE_PADDED)
    start = sums + part * BLOCKS * CHANNELS + group * SIZE
    total = tl.zeros((AT_ONCE, SIZE_PADDED), tl.float32)
    squares = tl.zeros((AT_ONCE, SIZE_PADDED), tl.float32)
    for first in range(0, BLOCKS, AT_ONCE):
        block = first + tl.arange(0, AT_ONCE)
        there = (block < BLOCKS)[:, None] & (inner < SIZE)[None, :]
        count = tl.minimum(ROWS, POSITIONS - block * ROWS)[:, None].to(tl.float32)
        mean = tl.load(start + block[:, None] * CHANNELS + inner[None, :], mask=there, other=0.0)
        total += tl.where(there, mean * count, 0.0)
    mean_all = tl.sum(tl.sum(total, 1), 0) / (POSITIONS * SIZE)
    for first in range(0, BLOCKS, AT_ONCE):
        block = first + tl.arange(0, AT_ONCE)
        there = (block < BLOCKS)[:, None] & (inner < SIZE)[None, :]
        count = tl.minimum(ROWS, POSITIONS - block * ROWS)[:, None].to(tl.float32)
        place = start + block[:, None] * CHANNELS + inner[None, :]
        apart = tl.load(place, mask=there, other=0.0) - mean_all
        squares += tl.where(there, tl.load(place + half, mask=there, other=0.0) + apart * apart * count, 0.0)
    variance = tl.sum(tl.sum(squares, 1), 0) / (POSITIONS * SIZE)
    to = moments + part * GROUPS + group
    tl.store(to, mean_all)
    tl.store(to + half_moments, tl.rsqrt(variance + epsilon))


@triton.jit
def _normalized(
    values, moments, weight, bias, out, half, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr,
    GROUPS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(2)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    known = channel < CHANNELS
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = (position < POSITIONS)[:, None] & known[None, :]
    place = part.to(tl.int64) * POSITIONS * CHANNELS + position[:, None] * CHANNELS + channel[None, :]
    at = moments + part * GROUPS + channel // SIZE
    mean = tl.load(at, mask=known, other=0.0)
    factor = tl.load(at + half, mask=known, other=0.0) * tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32) - mean * factor
    found = tl.load(values + place, mask=there, other=0.0).to(tl.float32)
    normal = found * factor[None, :] + shift[None, :]
    if SILU:
        normal = normal * tl.sigmoid(normal)
    tl.store(out + place, normal.to(out.dtype.element_ty), mask=there)


@triton_op("jingxiang::temporal_conv", mutates_args=())
def temporal_conv(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A convolution over the frame before, the frame itself and the one after it; beyond the ends there is nothing.

    Takes shapes (videos, frames, pixels, channels) and (channels after it, 3, channels), gives (videos, frames, pixels,
    channels after it). What cuDNN has for that either copies to another layout and back, or is half as fast.
    """
    values, weight = values.contiguous(), weight.contiguous()
    videos, frames, pixels, channels = values.shape
    width = weight.shape[0]
    out = values.new_empty((videos, frames, pixels, width))
    rows = videos * frames * pixels
    wrap_triton(_temporal_conv)[(_tiles(rows, width),)](
        values, weight, bias, out, rows, FRAMES=frames, PIXELS=pixels, CHANNELS=channels, WIDTH=width, GROUP=GROUP,
        num_warps=4 if channels <= 320 else 8, **PRODUCT,
    )  # fmt: skip
    return out


@temporal_conv.register_fake
def _(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return values.new_empty((*values.shape[:3], weight.shape[0]))


@triton.jit
def _tile(rows, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, GROUP: tl.constexpr):
    """Which tile of a product a program makes: some rows of tiles after the other, column by column."""
    down = tl.cdiv(rows, M)
    in_group = GROUP * ((WIDTH + N - 1) // N)
    group = tl.program_id(0) // in_group
    height = min(down - group * GROUP, GROUP)
    inner = tl.program_id(0) % in_group
    return group * GROUP + inner % height, inner // height


@triton.jit
def _temporal_conv(
    values, weight, bias, out, rows, FRAMES: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    down, across = _tile(rows, WIDTH, M, N, GROUP)
    row = down * M + tl.arange(0, M)
    column = across * N + tl.arange(0, N)
    k = tl.arange(0, K)
    frame = row // PIXELS % FRAMES
    total = tl.zeros((M, N), tl.float32)
    STEPS: tl.constexpr = (CHANNELS + K - 1) // K
    for step in range(0, 3 * STEPS):
        tap = step // STEPS
        channel = step % STEPS * K + k
        known = (row < rows) & (frame + tap >= 1) & (frame + tap <= FRAMES)
        a = tl.load(values + (row + (tap - 1) * PIXELS).to(tl.int64)[:, None] * CHANNELS + channel[None, :],
                    mask=known[:, None] & (channel < CHANNELS)[None, :], other=0.0)  # fmt: skip
        b = tl.load(weight + column[None, :] * (3 * CHANNELS) + tap * CHANNELS + channel[:, None],
                    mask=(column < WIDTH)[None, :] & (channel < CHANNELS)[:, None], other=0.0)  # fmt: skip
        total = tl.dot(a, b, total)
    total += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * WIDTH + column[None, :], total.to(out.dtype.element_ty),
             mask=(row < rows)[:, None] & (column < WIDTH)[None, :])  # fmt: skip


@triton_op("jingxiang::geglu", mutates_args=())
def geglu(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A linear layer, half of whose result is multiplied by GELU of the other half, which never reaches memory.

    Takes shapes (rows, channels) and (2 * width, channels), gives (rows, width). See `geglu_pays`.
    """
    values, weight = values.contiguous(), weight.contiguous()
    rows, channels = values.shape
    width = weight.shape[0] // 2
    out = values.new_empty((rows, width))
    wrap_triton(_geglu)[(_tiles(rows, width),)](
        values, weight, bias, out, rows, CHANNELS=channels, WIDTH=width, GROUP=GROUP, num_warps=8, **PRODUCT
    )
    return out


@geglu.register_fake
def _(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return values.new_empty((values.shape[0], weight.shape[0] // 2))


def geglu_pays(channels: int) -> bool:
    """With more channels cuBLAS wins, though it writes and reads everything once more: so it was on an H100."""
    return channels <= 512


@triton.jit
def _erf(x):
    """Within 1.5e-7: formula 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions."""
    size = tl.abs(x)
    t = 1.0 / (1.0 + 0.3275911 * size)
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    positive = 1.0 - series * tl.exp(-size * size)
    return tl.where(x < 0, -positive, positive)


@triton.jit
def _geglu(
    values, weight, bias, out, rows, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    down, across = _tile(rows, WIDTH, M, N, GROUP)
    row = down * M + tl.arange(0, M)
    both = tl.arange(0, 2 * N)  # a value and its gate side by side: a thread holds both
    column = across * N + both // 2
    weight_row = both % 2 * WIDTH + column
    k = tl.arange(0, K)
    total = tl.zeros((M, 2 * N), tl.float32)
    for first in range(0, CHANNELS, K):
        channel = first + k
        a = tl.load(values + row.to(tl.int64)[:, None] * CHANNELS + channel[None, :],
                    mask=(row < rows)[:, None] & (channel < CHANNELS)[None, :], other=0.0)  # fmt: skip
        b = tl.load(weight + weight_row[None, :] * CHANNELS + channel[:, None],
                    mask=(column < WIDTH)[None, :] & (channel < CHANNELS)[:, None], other=0.0)  # fmt: skip
        total = tl.dot(a, b, total)
    total += tl.load(bias + weight_row, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    value, gate = tl.split(tl.reshape(total, (M, N, 2)))
    made = value * 0.5 * gate * (1.0 + _erf(gate * 0.7071067811865476))
    place = across * N + tl.arange(0, N)
    tl.store(out + row.to(tl.int64)[:, None] * WIDTH + place[None, :], made.to(out.dtype.element_ty),
             mask=(row < rows)[:, None] & (place < WIDTH)[None, :])  # fmt: skip


def _tiles(rows: int, width: int) -> Any:
    return triton.cdiv(rows, PRODUCT["M"]) * triton.cdiv(width, PRODUCT["N"])
