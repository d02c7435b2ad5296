# pyright: basic
"""What the programs of the forward pass do: moments of each split, their merge, and y.

Axes: N clips, C channels, G groups, D = C / G channels of a group, P positions, S splits; tiles
(K, R, BC) as in `tile_functions.py`. A set is what shares statistics beside the channels: one clip
in group normalization, all clips in batch normalization (where D = 1). An entry is a split of a
clip of the set.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gnvideo.ops.triton_norm.tile_functions import (
    activate,
    find_chunks,
    load_channels,
    load_statistics,
    locate_unit,
    place_tile,
)


@triton.jit
def write_moments_of_unit(
    x_ptr,
    partial_ptr,
    unit,
    C,
    P,
    num_tiles,
    num_splits,
    chunks_per_split,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Writes mean and sum of squared deviations of each channel in one split.

    Each thread takes two passes over the K values that it holds, and adds them to what it had by
    the rule for merging moments; threads are merged once, at the end. Nothing is ever squared
    before a mean close to its own is taken away.

    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances", 1979.
    """
    clip, split, tile = locate_unit(unit, num_tiles, num_splits)
    rows, channels, offsets, step = place_tile(clip, tile, C, P, K, R, BC, CHANNELS_LAST)
    is_channel = (channels < C)[None, None, :]
    threads = tl.arange(0, R)[:, None]
    count = tl.zeros([R, 1], tl.float32)
    mean = tl.zeros([R, BC], tl.float32)
    squares = tl.zeros([R, BC], tl.float32)
    first, last = find_chunks(split, chunks_per_split, P, K, R)
    for chunk in range(first, last):
        start = tl.cast(chunk, tl.int64)
        inside = (start * (K * R) + rows < P) & is_channel
        x = tl.load(x_ptr + (start * step + offsets), mask=inside, other=0.0).to(tl.float32)
        rows_left = P - start * (K * R) - threads
        new_count = tl.minimum(tl.maximum(tl.cdiv(rows_left, R), 0), K).to(tl.float32)
        new_mean = tl.sum(x, 0) / tl.maximum(new_count, 1.0)
        centered = tl.where(inside, x - new_mean[None, :, :], 0.0)
        new_squares = tl.sum(centered * centered, 0)
        total = count + new_count
        share = new_count / tl.maximum(total, 1.0)
        difference = new_mean - mean
        mean += difference * share
        squares += new_squares + difference * difference * (count * share)
        count = total
    mean_C = tl.sum(count * mean, 0) / tl.sum(count, 0)  # pyright: ignore[reportOperatorIssue]
    difference = mean - mean_C[None, :]
    squares_C = tl.sum(squares + count * (difference * difference), 0)
    place = (tl.cast(clip, tl.int64) * num_splits + split) * 2 * C + channels
    tl.store(partial_ptr + place, mean_C, mask=channels < C)
    tl.store(partial_ptr + place + C, squares_C, mask=channels < C)


@triton.jit
def move_towards(pointers, values, momentum, inside):
    """Weighs what is stored with 1 - momentum and the values with momentum."""
    old = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    new = (1.0 - momentum) * old + momentum * values
    tl.store(pointers, new.to(pointers.dtype.element_ty), mask=inside)


@triton.jit
def merge_moments_of_unit(
    partial_ptr,
    mean_ptr,
    var_ptr,
    running_mean_ptr,
    running_var_ptr,
    unit,
    momentum,
    num_merge_tiles,
    num_entries,
    num_splits,
    rows_per_split,
    C,
    P,
    G,
    D,
    ENTRIES: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Writes mean and variance of GROUPS groups of one set, from all its entries.

    Two passes over the entries' means: their mean, as a deviation from the first of them, then the
    variance within the entries plus that between them. Running statistics, if there are any, move
    towards the mean and the unbiased variance.
    """
    wide_set = tl.cast(unit // num_merge_tiles, tl.int64)
    groups = (unit % num_merge_tiles) * GROUPS + tl.arange(0, GROUPS)
    base = partial_ptr + wide_set * num_entries * 2 * C
    is_group = (groups < G)[None, :, None]
    first_mean = tl.load(base + groups * D, mask=groups < G, other=0.0, cache_modifier=".cg")
    shift = first_mean[None, :, None]
    num_elements = tl.cast(P, tl.float32) * D * (num_entries // num_splits)

    sums = tl.zeros([ENTRIES, GROUPS, CHANNELS], tl.float32)
    for channel in range(0, D, CHANNELS):
        within = channel + tl.arange(0, CHANNELS)[None, None, :]
        for start in range(0, num_entries, ENTRIES):
            entries = start + tl.arange(0, ENTRIES)[:, None, None]
            inside = (entries < num_entries) & is_group & (within < D)
            places = tl.cast(entries, tl.int64) * 2 * C + groups[None, :, None] * D + within
            counts = tl.minimum(P - (entries % num_splits) * rows_per_split, rows_per_split)
            means = tl.load(base + places, mask=inside, other=0.0, cache_modifier=".cg")
            sums += tl.where(inside, counts.to(tl.float32) * (means - shift), 0.0)
    mean = first_mean + tl.sum(tl.sum(sums, 2), 0) / num_elements

    sums = tl.zeros([ENTRIES, GROUPS, CHANNELS], tl.float32)
    for channel in range(0, D, CHANNELS):
        within = channel + tl.arange(0, CHANNELS)[None, None, :]
        for start in range(0, num_entries, ENTRIES):
            entries = start + tl.arange(0, ENTRIES)[:, None, None]
            inside = (entries < num_entries) & is_group & (within < D)
            places = tl.cast(entries, tl.int64) * 2 * C + groups[None, :, None] * D + within
            counts = tl.minimum(P - (entries % num_splits) * rows_per_split, rows_per_split)
            means = tl.load(base + places, mask=inside, other=0.0, cache_modifier=".cg")
            squares = tl.load(base + places + C, mask=inside, other=0.0, cache_modifier=".cg")
            difference = means - mean[None, :, None]
            between = counts.to(tl.float32) * (difference * difference)
            sums += tl.where(inside, squares + between, 0.0)
    var = tl.sum(tl.sum(sums, 2), 0) / num_elements

    tl.store(mean_ptr + wide_set * G + groups, mean, mask=groups < G)
    tl.store(var_ptr + wide_set * G + groups, var, mask=groups < G)
    if running_mean_ptr is not None:
        unbiased_var = var * (num_elements / (num_elements - 1.0))
        move_towards(running_mean_ptr + groups, mean, momentum, groups < G)
        move_towards(running_var_ptr + groups, unbiased_var, momentum, groups < G)


@triton.jit
def normalize_unit(
    x_ptr,
    residual_ptr,
    y_ptr,
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
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Writes y = activation((x - mean) * rstd * weight + bias [+ residual]) in one split."""
    clip, split, tile = locate_unit(unit, num_tiles, num_splits)
    rows, channels, offsets, step = place_tile(clip, tile, C, P, K, R, BC, CHANNELS_LAST)
    mean, rstd = load_statistics(mean_ptr, var_ptr, clip, statistics_step, channels, C, D, eps)
    scale = rstd * load_channels(weight_ptr, channels, C, 1.0)
    bias = load_channels(bias_ptr, channels, C, 0.0)
    is_channel = (channels < C)[None, None, :]
    first, last = find_chunks(split, chunks_per_split, P, K, R)
    for chunk in range(first, last):
        start = tl.cast(chunk, tl.int64)
        inside = (start * (K * R) + rows < P) & is_channel
        places = start * step + offsets
        x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
        # The mean goes first: x * scale and mean * scale could be far larger than their difference.
        z = (x - mean[None, None, :]) * scale[None, None, :] + bias[None, None, :]
        if residual_ptr is not None:
            z += tl.load(residual_ptr + places, mask=inside, other=0.0).to(tl.float32)
        y = activate(z, ACTIVATION)
        tl.store(y_ptr + places, y.to(y_ptr.dtype.element_ty), mask=inside)
