# pyright: basic
"""What the kernels do with a tile: where it lies, the activation and its slope.

Offsets are 64 bits wide, so tensors may have more than 2^31 elements. Statistics and everything in
between are float32. Triton's language is Python that pyright cannot type strictly: a value is a
block of numbers, and operators on it come from the compiler.

Axes: C channels, P positions, K, R and BC as in `plan.py`. A tile is (K, R, BC) in either layout;
its adjacent axis is BC in channels_last and R otherwise. Sums over K stay within a thread.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers of which the kernels make no use beyond their value. By default Triton compiles a kernel
# again for each that is 1, or a multiple of 16.
PLAIN_NUMBERS = [
    *("inner_units", "outer", "num_tiles", "num_splits", "chunks_per_split", "statistics_step"),
    *("num_merge_tiles", "num_entries", "rows_per_split", "num_sets", "num_streaming_units"),
    *("units_per_set", "num_channels", "num_parameter_units"),
    *("C", "P", "G"),
]


@triton.jit
def locate_unit(unit, num_tiles, num_splits):
    """Returns clip, split and tile. Neighbors share rows: their tiles are loaded together."""
    tile = unit % num_tiles
    rest = unit // num_tiles
    return rest // num_splits, rest % num_splits, tile


@triton.jit
def unfold_sizes(inner_units, outer, ALIGNMENT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Returns C and P as 64 bit numbers; of the adjacent axis the compiler sees its divisor."""
    inner = tl.cast(inner_units, tl.int64) * ALIGNMENT
    outer = tl.cast(outer, tl.int64)
    if CHANNELS_LAST:
        C = inner
        P = outer
    else:
        C = outer
        P = inner
    return C, P


@triton.jit
def place_tile(
    clip,
    tile,
    C,
    P,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Returns rows (K, R, 1), channels (BC,), the tile's offsets at chunk 0, and a chunk's step."""
    rows = tl.arange(0, K)[:, None, None] * R + tl.arange(0, R)[None, :, None]
    channels = tile * BC + tl.arange(0, BC)
    wide_rows = tl.cast(rows, tl.int64)
    wide_channels = tl.cast(channels, tl.int64)[None, None, :]
    start = tl.cast(clip, tl.int64) * C * P
    # Threads are laid along the axes by how many adjacent elements each has, and versions of the
    # compiler break ties in their own ways: some give K to several threads, and then registers do
    # not suffice. The 2 puts the axis beside before K. Loads follow the adjacent axis, which has
    # more.
    if CHANNELS_LAST:
        offsets = start + (wide_rows * C + wide_channels)
        if BC > 2 and R > 1:
            offsets = tl.max_contiguous(offsets, [1, 2, BC])
        step = K * R * C
    else:
        offsets = start + (wide_channels * P + wide_rows)
        if R > 2 and BC > 1:
            offsets = tl.max_contiguous(offsets, [1, R, 2])
        step = tl.cast(K * R, tl.int64)
    return rows, channels, offsets, step


@triton.jit
def find_chunks(split, chunks_per_split, P, K: tl.constexpr, R: tl.constexpr):
    """Returns the half-open interval of the split's chunks."""
    first = split * chunks_per_split
    return first, tl.minimum(first + chunks_per_split, tl.cast(tl.cdiv(P, K * R), tl.int32))


@triton.jit
def load_channels(pointer, channels, C, default):
    """Returns a parameter (BC,) in float32; one that is missing is `default` everywhere."""
    if pointer is None:
        values = tl.full([channels.shape[0]], default, tl.float32)
    else:
        values = tl.load(pointer + channels, mask=channels < C, other=0.0).to(tl.float32)
    return values


@triton.jit
def load_statistics(mean_ptr, var_ptr, clip, statistics_step, channels, C, D, eps):
    """Returns mean and 1 / sqrt(var + eps) of each channel (BC,).

    They do not come from the first-level cache: within one launch another program may have written
    them.
    """
    places = tl.cast(clip, tl.int64) * statistics_step + channels // D
    inside = channels < C
    mean = tl.load(mean_ptr + places, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    var = tl.load(var_ptr + places, mask=inside, other=1.0, cache_modifier=".cg").to(tl.float32)
    return mean, 1.0 / tl.sqrt_rn(var + eps)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """Returns the activation of z; NaN stays NaN."""
    if ACTIVATION == "relu":
        z = tl.where(z <= 0.0, 0.0, z)
    elif ACTIVATION == "silu":
        z = z * tl.sigmoid(z)
    return z


@triton.jit
def multiply_by_slope(dy, z, ACTIVATION: tl.constexpr):
    """Returns dy times the activation's slope at z. For ReLU z may be its result as well."""
    if ACTIVATION == "relu":
        dy = tl.where(z <= 0.0, 0.0, dy)
    elif ACTIVATION == "silu":
        gate = tl.sigmoid(z)
        dy = dy * (gate * (1.0 + z * (1.0 - gate)))
    return dy
