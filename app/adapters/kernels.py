"""Kernels of our own for a GPU, where PyTorch's do not suit videos. Imports Triton, which builds for CUDA bring along.

Values lie in memory channels last: those of a pixel side by side. All sums are in fp32, as in PyTorch's own kernels.
What the sizes of tiles are was measured on an H100 and an H200.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

# Tokens that a program of the attention works on, which are several short sequences, side by side.
ROWS_OF_ATTENTION = 16
TILE = 64  # channels that a program of a norm works on, and twice as many as the positions
# For the moments of a norm: positions and channels that a program reads at a time.
MOMENTS = {"P": 64, "C": 64, "STAGES": 3, "num_warps": 2}
PROGRAMS = 2112  # enough for every card to be busy
# Of a matrix product, tile by tile: rows, and columns and what is summed over at a time; how many rows of tiles share
# what they read; whether the next tile is brought while one is written; programs for each multiprocessor.
ROWS_OF_PRODUCT = 128
NARROW = {"N": 64, "K": 64, "GROUP": 8, "FLATTEN": True, "PROGRAMS": 2, "num_warps": 4, "num_stages": 3}
WIDE = {"N": 128, "K": 64, "GROUP": 8, "FLATTEN": True, "PROGRAMS": 1, "num_warps": 8, "num_stages": 4}
FEW = {"N": 128, "K": 64, "GROUP": 8, "FLATTEN": True, "PROGRAMS": 1, "num_warps": 4, "num_stages": 4}
GATES = {"N": 128, "K": 64, "GROUP": 8, "FLATTEN": False, "PROGRAMS": 1, "num_warps": 8, "num_stages": 3}
ELSEWHERE = {"N": 64, "K": 64, "GROUP": 8, "FLATTEN": False, "PROGRAMS": 2, "num_warps": 4, "num_stages": 3}
# Of a product whose warps have different tasks: rows and columns of a tile, more columns in a second part (each is a
# power of two); steps that are brought ahead; how long it takes for as many numbers, against others.
BROAD = {"M": 128, "N": 256, "MORE": 64, "K": 64, "GROUP": 8, "STAGES": 2}, 1.0
HIGH = {"M": 256, "N": 128, "MORE": 0, "K": 64, "GROUP": 8, "STAGES": 3}, 0.93
SMALL = {"M": 128, "N": 128, "MORE": 0, "K": 64, "GROUP": 8, "STAGES": 4}, 1.08
DEEP = {"M": 128, "N": 128, "MORE": 0, "K": 128, "GROUP": 8, "STAGES": 2}  # of gated ones, if that much is summed over:
LENGTH = 640
LEAST = 128  # channels, before and after: with fewer there is little to gain
KNOWN = ("3.6.", "3.7.")  # releases of Triton of which is known where they leave barriers, see `_forgotten`
HOPPER = (9, 0)
PROCESSORS = 132  # multiprocessors of an H100
specialises = True  # whether products may be given to `_specialised`


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
    at_once = max(1, ROWS_OF_ATTENTION // padded)
    wrap_triton(_short_attention)[(triton.cdiv(videos * pixels, at_once) * heads,)](
        joined, out, videos * pixels, (width // heads) ** -0.5, PIXELS=pixels, HEADS=heads, FRAMES=frames,
        PADDED=padded, WIDTH=width, SIZE=width // heads, SIZE_PADDED=triton.next_power_of_2(width // heads),
        ROWS=at_once * padded, num_warps=1,
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
    """One head of some pixels. Programs beside each other have the other heads: what they read lies side by side."""
    head = tl.program_id(0) % HEADS
    token = tl.arange(0, ROWS)
    sequence = tl.program_id(0) // HEADS * (ROWS // PADDED) + token // PADDED
    frame = token % PADDED
    part = tl.arange(0, SIZE_PADDED)
    there = ((sequence < sequences) & (frame < FRAMES))[:, None] & (part < SIZE)[None, :]
    row = ((sequence // PIXELS * FRAMES + frame) * PIXELS + sequence % PIXELS).to(tl.int64)[:, None]
    column = head * SIZE + part[None, :]
    place = joined + row * (3 * WIDTH) + column
    q = tl.load(place, mask=there, other=0.0)
    k = tl.load(place + WIDTH, mask=there, other=0.0)
    v = tl.load(place + 2 * WIDTH, mask=there, other=0.0)
    together = ((token // PADDED)[:, None] == (token // PADDED)[None, :]) & (frame < FRAMES)[None, :]
    scores = tl.where(together, tl.dot(q, tl.trans(k)) * scale, -1.0e30)
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
    tiles = triton.cdiv(channels, MOMENTS["C"])
    blocks = min(triton.cdiv(positions, MOMENTS["P"]), triton.cdiv(PROGRAMS, tiles * parts))
    rows = triton.cdiv(triton.cdiv(positions, blocks), MOMENTS["P"]) * MOMENTS["P"]
    blocks = triton.cdiv(positions, rows)
    sums = values.new_empty((2, parts, blocks, channels), dtype=torch.float32)
    wrap_triton(_block_moments)[(blocks, tiles, parts)](
        values, sums, parts * blocks * channels, POSITIONS=positions, CHANNELS=channels, ROWS=rows, **MOMENTS
    )
    moments = values.new_empty((2, parts, groups), dtype=torch.float32)
    wrap_triton(_group_moments)[(groups, parts)](
        sums, moments, parts * blocks * channels, parts * groups, epsilon, POSITIONS=positions, BLOCKS=blocks,
        GROUPS=groups, CHANNELS=channels, SIZE=channels // groups,
        SIZE_PADDED=triton.next_power_of_2(channels // groups), ROWS=rows, AT_ONCE=TILE,
    )  # fmt: skip
    out = torch.empty_like(values)
    wrap_triton(_normalized)[(triton.cdiv(positions, TILE // 2), triton.cdiv(channels, TILE), parts)](
        values, moments, weight, bias, out, parts * groups, POSITIONS=positions, CHANNELS=channels,
        SIZE=channels // groups, GROUPS=groups, ROWS=TILE // 2, TILE=TILE, SILU=silu,
        num_warps=2,
    )  # fmt: skip
    return out


@group_norm.register_fake
def _(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, epsilon: float, silu: bool
) -> torch.Tensor:
    return values.new_empty(values.shape)


@triton.jit
def _block_moments(
    values, sums, half, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, P: tl.constexpr,
    C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Of each channel in a block of positions: its mean, and the sum of squares around that."""
    block, part = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    start = values + part.to(tl.int64) * POSITIONS * CHANNELS
    # Around the first value of the block, since a mean that is large beside the spread would leave nothing of it.
    first = block * ROWS
    shift = tl.load(start + first * CHANNELS + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    total = tl.zeros((P, C), tl.float32)
    squares = tl.zeros((P, C), tl.float32)
    for row in tl.range(0, ROWS, P, num_stages=STAGES):
        position = first + row + tl.arange(0, P)
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
def temporal_conv(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, added: torch.Tensor | None = None
) -> torch.Tensor:
    """A convolution over the frame before, the frame itself and the one after it; beyond the ends there is nothing.

    Takes shapes (videos, frames, pixels, channels) and (channels after it, 3, channels), gives (videos, frames, pixels,
    channels after it); `added` has that shape, too. What cuDNN has for that either copies to another layout and back,
    or is half as fast.
    """
    return _made(values, weight, bias, added, gated=False)


@temporal_conv.register_fake
def _(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, added: torch.Tensor | None = None
) -> torch.Tensor:
    return values.new_empty((*values.shape[:3], weight.shape[0]))


@triton_op("jingxiang::geglu", mutates_args=())
def geglu(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A linear layer, half of whose result is multiplied by GELU of the other half, which never reaches memory.

    Takes shapes (rows, channels) and (2 * width, channels), gives (rows, width).
    """
    return _made(values[None, None], weight[:, None], bias, None, gated=True)[0, 0]


@geglu.register_fake
def _(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return values.new_empty((values.shape[0], weight.shape[0] // 2))


@triton_op("jingxiang::linear_added", mutates_args=())
def linear_added(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """A linear layer, and `added` to what it gives, which would else be written and read once more.

    Takes shapes (rows, channels), (width, channels) and (rows, width), gives (rows, width).
    """
    return _made(values[None, None], weight[:, None], bias, added[None, None], gated=False)[0, 0]


@linear_added.register_fake
def _(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    return values.new_empty((values.shape[0], weight.shape[0]))


@triton.jit
def _gelu(x):
    """x times the normal distribution's function, within 4e-6: that is about the logistic one of a polynomial.

    To multiply twice by one over a root takes less than to divide once.
    """
    square = x * x
    inner = (((2.2381593e-06 * square - 6.1161890e-05) * square - 2.4972406e-04) * square + 0.072937584) * square
    root = tl.rsqrt(1.0 + tl.exp2(x * (inner + 1.5956563) * -1.4426950408889634))
    return x * root * root


@triton.jit
def _place(tile, high, WIDE: tl.constexpr, GROUP: tl.constexpr):
    """How far down and right a tile is, of so many: `GROUP` rows of them at a time, column by column, since what those
    read is in the cache then.
    """
    group = tile // (GROUP * WIDE)
    height = min(high - group * GROUP, GROUP)
    inner = tile % (GROUP * WIDE)
    return group * GROUP + inner % height, inner // height


@triton.jit
def _forgotten(value, place):
    """The value. On the way the first thread gives up a barrier at that place in shared memory.

    Triton 3.6 and 3.7 make barriers that nobody waits for where they have put tiles: at the very beginning, one of 8
    bytes for each step that is brought ahead. Hardware still knows them as barriers then, and writes their state over a
    tile once it needs the place for others.
    """
    return tl.inline_asm_elementwise(
        """{ .reg .pred first; .reg .b32 at; .reg .b32 thread;
        mov.u32 thread, %tid.x; setp.eq.u32 first, thread, 0; mov.u32 at, global_smem; add.u32 at, at, $2;
        @first mbarrier.inval.shared.b64 [at]; mov.b32 $0, $1; }""",
        "=r,r,r", [value, place], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def _settled(value):
    """The value. On the way what was written to shared memory is settled before hardware brings tiles there."""
    return tl.inline_asm_elementwise(
        "{ fence.proxy.async.shared::cta; mov.b32 $0, $1; }", "=r,r", [value], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _specialised(
    values, weight, bias, added, out, rows, images, frames, pixels, TAPS: tl.constexpr, CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, MORE: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
    STAGES: tl.constexpr, IS_REAL: tl.constexpr, ADDED: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """A matrix product, tile by tile: of each row and, with three `TAPS`, those of the same pixel in the frame before
    and the one after it.

    For Hopper: four warps have the hardware bring tiles, also those of the next one while eight others multiply.
    """
    STEPS: tl.constexpr = (CHANNELS + K - 1) // K
    FULL: tl.constexpr = 2 * WIDTH if GATED else WIDTH
    source = tl.make_tensor_descriptor(values, [rows, CHANNELS], [CHANNELS, 1], [M, K])
    factor = tl.make_tensor_descriptor(weight, [FULL, TAPS * CHANNELS], [TAPS * CHANNELS, 1], [N, K])
    target = tl.make_tensor_descriptor(out, [rows, WIDTH], [WIDTH, 1], [M, N])
    if ADDED:
        other = tl.make_tensor_descriptor(added, [rows, WIDTH], [WIDTH, 1], [M, N])
    if MORE:
        factor_more = tl.make_tensor_descriptor(weight, [FULL, TAPS * CHANNELS], [TAPS * CHANNELS, 1], [MORE, K])
        target_more = tl.make_tensor_descriptor(out, [rows, WIDTH], [WIDTH, 1], [M, MORE])
        if ADDED:
            other_more = tl.make_tensor_descriptor(added, [rows, WIDTH], [WIDTH, 1], [M, MORE])
    across = tl.cdiv(pixels, M)
    high = images * across
    WIDE: tl.constexpr = (WIDTH + N + MORE - 1) // (N + MORE)
    begin = tl.program_id(0)
    if IS_REAL:  # there is no shared memory where Triton only interprets
        for stage in tl.static_range(STAGES):
            begin = _forgotten(begin, 8 * stage)
        begin = _settled(begin)
    for tile in tl.range(begin, high * WIDE, tl.num_programs(0), warp_specialize=True):
        down, right = _place(tile, high, WIDE, GROUP)
        column = right * (N + MORE)
        image = down // across
        row = image * pixels + down % across * M
        first = 0
        last = TAPS * STEPS
        if TAPS > 1:  # beyond the first and the last frame there is nothing
            first = tl.where(image % frames == 0, STEPS, 0)
            last = tl.where(image % frames == frames - 1, 2 * STEPS, last)
        total = tl.zeros((M, N), tl.float32)
        if MORE:
            more = tl.zeros((M, MORE), tl.float32)
        if GATED:
            gates = tl.zeros((M, N), tl.float32)
        for step in range(first, last):
            channel = step % STEPS * K
            tap = step // STEPS
            a = source.load([row + (tap - TAPS // 2) * pixels, channel])
            total = tl.dot(a, factor.load([column, tap * CHANNELS + channel]).T, total)
            if MORE:
                more = tl.dot(a, factor_more.load([column + N, tap * CHANNELS + channel]).T, more)
            if GATED:
                gates = tl.dot(a, factor.load([WIDTH + column, tap * CHANNELS + channel]).T, gates)
        inside = column + tl.arange(0, N)
        total += tl.load(bias + inside, mask=inside < WIDTH, other=0.0).to(tl.float32)[None, :]
        if GATED:
            gates += tl.load(bias + WIDTH + inside, mask=inside < WIDTH, other=0.0).to(tl.float32)[None, :]
            total = total * _gelu(gates)
        if ADDED:
            total += other.load([row, column]).to(tl.float32)
        target.store([row, column], total.to(out.dtype.element_ty))
        if MORE:
            inside = column + N + tl.arange(0, MORE)
            more += tl.load(bias + inside, mask=inside < WIDTH, other=0.0).to(tl.float32)[None, :]
            if ADDED:
                more += other_more.load([row, column + N]).to(tl.float32)
            target_more.store([row, column + N], more.to(out.dtype.element_ty))


@triton.jit
def _product(
    values, weight, bias, added, out, videos, rows, pixels, TAPS: tl.constexpr, CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, FLATTEN: tl.constexpr,
    ADDED: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """A matrix product, tile by tile: of each of so many rows of a video and those of the same pixel in the frames
    around it, `TAPS` in all.

    Hardware brings the tiles (on Hopper), and zeros for what lies beyond the first and the last frame. What is brought
    must be multiplied as it lies there: Triton 3.6 and 3.7 let the next values overwrite registers that are still read.
    """
    STEPS: tl.constexpr = (CHANNELS + K - 1) // K
    FULL: tl.constexpr = 2 * WIDTH if GATED else WIDTH
    long = tl.cast(rows, tl.int64)
    source = tl.make_tensor_descriptor(values, [videos, rows, CHANNELS], [long * CHANNELS, CHANNELS, 1], [1, M, K])
    factor = tl.make_tensor_descriptor(weight, [FULL, TAPS * CHANNELS], [TAPS * CHANNELS, 1], [N, K])
    target = tl.make_tensor_descriptor(out, [videos, rows, WIDTH], [long * WIDTH, WIDTH, 1], [1, M, N])
    if ADDED:
        other = tl.make_tensor_descriptor(added, [videos, rows, WIDTH], [long * WIDTH, WIDTH, 1], [1, M, N])
    across = tl.cdiv(rows, M)
    high = videos * across
    WIDE: tl.constexpr = (WIDTH + N - 1) // N
    for tile in tl.range(tl.program_id(0), high * WIDE, tl.num_programs(0), flatten=FLATTEN):
        down, right = _place(tile, high, WIDE, GROUP)
        column = right * N
        row = down % across * M
        video = down // across
        total = tl.zeros((M, N), tl.float32)
        gates = tl.zeros((M, N), tl.float32)
        for step in range(0, TAPS * STEPS):
            channel = step % STEPS * K
            tap = step // STEPS
            a = source.load([video, row + (tap - TAPS // 2) * pixels, channel]).reshape(M, K)
            total = tl.dot(a, factor.load([column, tap * CHANNELS + channel]).T, total)
            if GATED:
                gates = tl.dot(a, factor.load([WIDTH + column, tap * CHANNELS + channel]).T, gates)
        inside = column + tl.arange(0, N)
        total += tl.load(bias + inside, mask=inside < WIDTH, other=0.0).to(tl.float32)[None, :]
        if GATED:
            gates += tl.load(bias + WIDTH + inside, mask=inside < WIDTH, other=0.0).to(tl.float32)[None, :]
            total = total * _gelu(gates)
        if ADDED:
            total += other.load([video, row, column]).reshape(M, N).to(tl.float32)
        target.store([video, row, column], total.to(out.dtype.element_ty).reshape(1, M, N))


def _made(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, added: torch.Tensor | None, *, gated: bool
) -> torch.Tensor:
    values, weight = values.contiguous(), weight.contiguous()
    added = added if added is None else added.contiguous()
    videos, frames, pixels, channels = values.shape
    full, taps, _ = weight.shape
    width = full // 2 if gated else full
    out = values.new_empty((videos, frames, pixels, width))
    rows = frames * pixels  # of a video
    special = _special(videos * rows, pixels, channels, width, gated=gated)
    if special is not None:
        wrap_triton(_specialised)[(_processors(),)](
            values, weight, bias, added, out, videos * rows, videos * frames, frames, pixels, TAPS=taps,
            CHANNELS=channels, WIDTH=width, ADDED=added is not None, GATED=gated,
            IS_REAL=not triton.knobs.runtime.interpret, num_warps=4, num_stages=special["STAGES"], **special,
        )  # fmt: skip
        return out
    settings = _settings(videos * triton.cdiv(rows, ROWS_OF_PRODUCT), width, gated=gated)
    wrap_triton(_product)[(settings.pop("PROGRAMS") * _processors(),)](
        values, weight, bias, added, out, videos, rows, pixels, TAPS=taps, CHANNELS=channels, WIDTH=width,
        M=ROWS_OF_PRODUCT, ADDED=added is not None, GATED=gated, **settings,
    )  # fmt: skip
    return out


def _settings(tiles: int, width: int, *, gated: bool) -> dict[str, int]:
    """For so many tiles below each other on this card."""
    if not _is_hopper():  # others have less memory for tiles
        return dict(ELSEWHERE)
    if gated:
        return dict(GATES)
    if width % WIDE["N"]:
        return dict(NARROW)
    return dict(FEW if tiles * (width // WIDE["N"]) <= 2 * _processors() else WIDE)


def _special(rows: int, pixels: int, channels: int, width: int, *, gated: bool) -> dict[str, int] | None:
    """For `_specialised`, each of whose tiles is of one image of so many pixels; None for what it does not suit."""
    is_known = triton.__version__.startswith(KNOWN) and _is_hopper()
    if not (specialises and is_known and min(channels, width) >= LEAST):
        return None
    if gated:
        return dict(DEEP if channels >= LENGTH else SMALL[0])

    def cost(each: tuple[dict[str, int], float]) -> float:
        settings, weight = each
        columns = settings["N"] + settings["MORE"]
        tiles = -(-rows // settings["M"]) * -(-width // columns)
        turns = -(-tiles // _processors())
        return float(weight * turns * settings["M"] * columns)

    fitting = [each for each in (BROAD, HIGH, SMALL) if pixels == rows or pixels % each[0]["M"] == 0]
    return dict(min(fitting, key=cost)[0]) if fitting else None


def _is_hopper() -> bool:
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() == HOPPER


def _processors() -> int:
    return torch.cuda.get_device_properties().multi_processor_count if torch.cuda.is_available() else PROCESSORS
