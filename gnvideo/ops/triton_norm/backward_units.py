# pyright: basic
"""What the programs of the backward pass do: sums of each split, their merge, and the gradients.

With dz the gradient of what the activation was applied to, x_hat = (x - mean) * rstd, and the means
over a group (batch normalization: over a channel of all clips):
    dx = rstd * (dz * weight - mean(dz * weight) - x_hat * mean(dz * weight * x_hat))
    dweight = sum(dz * x_hat),  dbias = sum(dz),  dresidual = dz
Where the statistics are constants, the two means are absent.

Axes, sets and entries: as in `forward_units.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gnvideo.ops.triton_norm.tile_functions import (
    find_chunks,
    load_channels,
    load_statistics,
    locate_unit,
    multiply_by_slope,
    place_tile,
)


@triton.jit
def load_dz(
    dy_ptr,
    saved_ptr,
    centered,
    scale,
    bias,
    places,
    inside,
    ACTIVATION: tl.constexpr,
    SAVED_IS_OUTPUT: tl.constexpr,
):
    """Returns dy times the activation's slope.

    Where z comes from: `saved_ptr` is y, which ReLU's slope can be told from; or it is the
    residual; or it is None, and z is the normalized x.
    """
    dz = tl.load(dy_ptr + places, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION is not None:
        if SAVED_IS_OUTPUT:
            z = tl.load(saved_ptr + places, mask=inside, other=0.0).to(tl.float32)
        else:
            z = centered * scale[None, None, :] + bias[None, None, :]
            if saved_ptr is not None:
                z += tl.load(saved_ptr + places, mask=inside, other=0.0).to(tl.float32)
        dz = multiply_by_slope(dz, z, ACTIVATION)
    return dz


@triton.jit
def write_sums_of_unit(
    x_ptr,
    dy_ptr,
    saved_ptr,
    dz_ptr,
    partial_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    unit,
    eps,
    statistics_step,
    D,
    C,
    P,
    num_tiles,
    num_splits,
    chunks_per_split,
    ACTIVATION: tl.constexpr,
    SAVED_IS_OUTPUT: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Writes the sums of dz and dz * (x - mean) of each channel in one split, and dz if wanted."""
    clip, split, tile = locate_unit(unit, num_tiles, num_splits)
    rows, channels, offsets, step = place_tile(clip, tile, C, P, K, R, BC, CHANNELS_LAST)
    mean, rstd = load_statistics(mean_ptr, var_ptr, clip, statistics_step, channels, C, D, eps)
    scale = rstd * load_channels(weight_ptr, channels, C, 1.0)
    bias = load_channels(bias_ptr, channels, C, 0.0)
    is_channel = (channels < C)[None, None, :]
    sums = tl.zeros([R, BC], tl.float32)
    products = tl.zeros([R, BC], tl.float32)
    first, last = find_chunks(split, chunks_per_split, P, K, R)
    for chunk in range(first, last):
        start = tl.cast(chunk, tl.int64)
        inside = (start * (K * R) + rows < P) & is_channel
        places = start * step + offsets
        x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
        centered = x - mean[None, None, :]
        dz = load_dz(
            dy_ptr,
            saved_ptr,
            centered,
            scale,
            bias,
            places,
            inside,
            ACTIVATION,
            SAVED_IS_OUTPUT,
        )
        if dz_ptr is not None:
            tl.store(dz_ptr + places, dz.to(dz_ptr.dtype.element_ty), mask=inside)
        # Where nothing was loaded, dz is 0.
        sums += tl.sum(dz, 0)
        products += tl.sum(dz * centered, 0)
    place = (tl.cast(clip, tl.int64) * num_splits + split) * 2 * C + channels
    tl.store(partial_ptr + place, tl.sum(sums, 0), mask=channels < C)
    tl.store(partial_ptr + place + C, tl.sum(products, 0), mask=channels < C)


@triton.jit
def merge_sums_of_unit(
    partial_ptr,
    sums_ptr,
    means_ptr,
    var_ptr,
    weight_ptr,
    unit,
    eps,
    num_merge_tiles,
    num_entries,
    num_splits,
    C,
    P,
    G,
    D,
    ENTRIES: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Writes the sums of dz and dz * x_hat of each channel of GROUPS groups of one set.

    The means are those of dz * weight and dz * weight * x_hat over a group. `sums_ptr` is
    (sets, 2, C) and `means_ptr` (sets, 2, G); None where no means are wanted.
    """
    wide_set = tl.cast(unit // num_merge_tiles, tl.int64)
    groups = (unit % num_merge_tiles) * GROUPS + tl.arange(0, GROUPS)
    base = partial_ptr + wide_set * num_entries * 2 * C
    var = tl.load(var_ptr + wide_set * G + groups, mask=groups < G, other=1.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt_rn(var + eps)
    group_sums = tl.zeros([GROUPS], tl.float32)
    group_products = tl.zeros([GROUPS], tl.float32)
    for channel in range(0, D, CHANNELS):
        within = channel + tl.arange(0, CHANNELS)
        is_channel = (groups < G)[:, None] & (within < D)[None, :]
        channels = groups[:, None] * D + within[None, :]
        sums = tl.zeros([ENTRIES, GROUPS, CHANNELS], tl.float32)
        products = tl.zeros([ENTRIES, GROUPS, CHANNELS], tl.float32)
        for start in range(0, num_entries, ENTRIES):
            entries = start + tl.arange(0, ENTRIES)[:, None, None]
            inside = (entries < num_entries) & is_channel[None, :, :]
            places = tl.cast(entries, tl.int64) * 2 * C + channels[None, :, :]
            sums += tl.load(base + places, mask=inside, other=0.0, cache_modifier=".cg")
            products += tl.load(base + places + C, mask=inside, other=0.0, cache_modifier=".cg")
        channel_sums = tl.sum(sums, 0)
        channel_products = tl.sum(products, 0) * rstd[:, None]
        tl.store(sums_ptr + wide_set * 2 * C + channels, channel_sums, mask=is_channel)
        tl.store(sums_ptr + wide_set * 2 * C + C + channels, channel_products, mask=is_channel)
        if means_ptr is not None:
            if weight_ptr is not None:
                weight = tl.load(weight_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
                channel_sums *= weight
                channel_products *= weight
            group_sums += tl.sum(channel_sums, 1)
            group_products += tl.sum(channel_products, 1)
    if means_ptr is not None:
        num_elements = tl.cast(P, tl.float32) * D * (num_entries // num_splits)
        place = wide_set * 2 * G + groups
        tl.store(means_ptr + place, group_sums / num_elements, mask=groups < G)
        tl.store(means_ptr + place + G, group_products / num_elements, mask=groups < G)


@triton.jit
def write_gradients_of_unit(
    x_ptr,
    dy_ptr,
    saved_ptr,
    dx_ptr,
    dresidual_ptr,
    mean_ptr,
    var_ptr,
    means_ptr,
    weight_ptr,
    bias_ptr,
    unit,
    eps,
    statistics_step,
    G,
    D,
    C,
    P,
    num_tiles,
    num_splits,
    chunks_per_split,
    ACTIVATION: tl.constexpr,
    SAVED_IS_OUTPUT: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Writes dx and dresidual, either of which may be None, in one split."""
    clip, split, tile = locate_unit(unit, num_tiles, num_splits)
    rows, channels, offsets, step = place_tile(clip, tile, C, P, K, R, BC, CHANNELS_LAST)
    mean, rstd = load_statistics(mean_ptr, var_ptr, clip, statistics_step, channels, C, D, eps)
    scale = rstd * load_channels(weight_ptr, channels, C, 1.0)
    bias = load_channels(bias_ptr, channels, C, 0.0)
    inside_C = channels < C
    if means_ptr is not None:
        # A set's two means lie side by side, so its step is twice that of the statistics.
        places_C = tl.cast(clip, tl.int64) * 2 * statistics_step + channels // D
        mean_dz = tl.load(means_ptr + places_C, mask=inside_C, other=0.0, cache_modifier=".cg")
        mean_product = tl.load(
            means_ptr + places_C + G, mask=inside_C, other=0.0, cache_modifier=".cg"
        )
        offset = (rstd * mean_dz)[None, None, :]
        slope = (rstd * mean_product)[None, None, :]
    first, last = find_chunks(split, chunks_per_split, P, K, R)
    for chunk in range(first, last):
        start = tl.cast(chunk, tl.int64)
        inside = (start * (K * R) + rows < P) & inside_C[None, None, :]
        places = start * step + offsets
        x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
        centered = x - mean[None, None, :]
        dz = load_dz(
            dy_ptr,
            saved_ptr,
            centered,
            scale,
            bias,
            places,
            inside,
            ACTIVATION,
            SAVED_IS_OUTPUT,
        )
        if dresidual_ptr is not None:
            tl.store(dresidual_ptr + places, dz.to(dresidual_ptr.dtype.element_ty), mask=inside)
        if dx_ptr is not None:
            dx = dz * scale[None, None, :]
            if means_ptr is not None:
                dx -= offset + centered * rstd[None, None, :] * slope
            tl.store(dx_ptr + places, dx.to(dx_ptr.dtype.element_ty), mask=inside)


@triton.jit
def write_parameter_gradients_of_unit(
    sums_ptr,
    dweight_ptr,
    dbias_ptr,
    unit,
    num_sets,
    C,
    SETS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Writes dweight and dbias, either of which may be None, of CHANNELS channels."""
    channels = unit * CHANNELS + tl.arange(0, CHANNELS)
    sums = tl.zeros([SETS, CHANNELS], tl.float32)
    products = tl.zeros([SETS, CHANNELS], tl.float32)
    for start in range(0, num_sets, SETS):
        sets = start + tl.arange(0, SETS)[:, None]
        inside = (sets < num_sets) & (channels < C)[None, :]
        places = tl.cast(sets, tl.int64) * 2 * C + channels[None, :]
        sums += tl.load(sums_ptr + places, mask=inside, other=0.0, cache_modifier=".cg")
        products += tl.load(sums_ptr + places + C, mask=inside, other=0.0, cache_modifier=".cg")
    if dweight_ptr is not None:
        dweight = tl.sum(products, 0)
        tl.store(
            dweight_ptr + channels, dweight.to(dweight_ptr.dtype.element_ty), mask=channels < C
        )
    if dbias_ptr is not None:
        dbias = tl.sum(sums, 0)
        tl.store(dbias_ptr + channels, dbias.to(dbias_ptr.dtype.element_ty), mask=channels < C)
