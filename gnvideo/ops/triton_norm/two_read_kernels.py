# pyright: basic
"""The kernels that read a tensor twice: three launches forward, three backward, no atomics.

Every number is written by one program, and sums are taken in a fixed order: results are the same to
the last bit from run to run. Axes and words: as in `forward_units.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gnvideo.ops.triton_norm.backward_units import (
    merge_sums_of_unit,
    write_gradients_of_unit,
    write_parameter_gradients_of_unit,
    write_sums_of_unit,
)
from gnvideo.ops.triton_norm.forward_units import (
    merge_moments_of_unit,
    normalize_unit,
    write_moments_of_unit,
)
from gnvideo.ops.triton_norm.tile_functions import PLAIN_NUMBERS, unfold_sizes


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def write_moments(
    x_ptr,
    partial_ptr,
    inner_units,
    outer,
    num_tiles,
    num_splits,
    chunks_per_split,
    ALIGNMENT: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """First launch: a program for each split, tile and clip."""
    C, P = unfold_sizes(inner_units, outer, ALIGNMENT, CHANNELS_LAST)
    unit = tl.program_id(0)
    write_moments_of_unit(
        x_ptr,
        partial_ptr,
        unit,
        C,
        P,
        num_tiles,
        num_splits,
        chunks_per_split,
        K,
        R,
        BC,
        CHANNELS_LAST,
    )


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def merge_moments(
    partial_ptr,
    mean_ptr,
    var_ptr,
    running_mean_ptr,
    running_var_ptr,
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
    """Second launch: a program for a few groups of each set."""
    merge_moments_of_unit(
        partial_ptr,
        mean_ptr,
        var_ptr,
        running_mean_ptr,
        running_var_ptr,
        tl.program_id(0),
        momentum,
        num_merge_tiles,
        num_entries,
        num_splits,
        rows_per_split,
        C,
        P,
        G,
        D,
        ENTRIES,
        GROUPS,
        CHANNELS,
    )


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def normalize(
    x_ptr,
    residual_ptr,
    y_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    eps,
    statistics_step,
    D,
    inner_units,
    outer,
    num_tiles,
    num_splits,
    chunks_per_split,
    ACTIVATION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Third launch: the first one's programs from last to first.

    What the first launch read last is then still in the second-level cache.
    """
    C, P = unfold_sizes(inner_units, outer, ALIGNMENT, CHANNELS_LAST)
    unit = tl.num_programs(0) - 1 - tl.program_id(0)
    normalize_unit(
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
        ACTIVATION,
        K,
        R,
        BC,
        CHANNELS_LAST,
    )


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def write_sums(
    x_ptr,
    dy_ptr,
    saved_ptr,
    dz_ptr,
    partial_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    eps,
    statistics_step,
    D,
    inner_units,
    outer,
    num_tiles,
    num_splits,
    chunks_per_split,
    ACTIVATION: tl.constexpr,
    SAVED_IS_OUTPUT: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """First launch backward: a program for each split, tile and clip."""
    C, P = unfold_sizes(inner_units, outer, ALIGNMENT, CHANNELS_LAST)
    write_sums_of_unit(
        x_ptr,
        dy_ptr,
        saved_ptr,
        dz_ptr,
        partial_ptr,
        mean_ptr,
        var_ptr,
        weight_ptr,
        bias_ptr,
        tl.program_id(0),
        eps,
        statistics_step,
        D,
        C,
        P,
        num_tiles,
        num_splits,
        chunks_per_split,
        ACTIVATION,
        SAVED_IS_OUTPUT,
        K,
        R,
        BC,
        CHANNELS_LAST,
    )


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def merge_sums(
    partial_ptr,
    sums_ptr,
    means_ptr,
    var_ptr,
    weight_ptr,
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
    """Second launch backward: a program for a few groups of each set."""
    merge_sums_of_unit(
        partial_ptr,
        sums_ptr,
        means_ptr,
        var_ptr,
        weight_ptr,
        tl.program_id(0),
        eps,
        num_merge_tiles,
        num_entries,
        num_splits,
        C,
        P,
        G,
        D,
        ENTRIES,
        GROUPS,
        CHANNELS,
    )


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def write_gradients(
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
    sums_ptr,
    dweight_ptr,
    dbias_ptr,
    eps,
    statistics_step,
    G,
    D,
    num_sets,
    num_streaming_units,
    inner_units,
    outer,
    num_tiles,
    num_splits,
    chunks_per_split,
    ACTIVATION: tl.constexpr,
    SAVED_IS_OUTPUT: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PARAMETER_SETS: tl.constexpr,
    PARAMETER_CHANNELS: tl.constexpr,
):
    """Third launch backward: the first one's programs, last to first; then the parameters'."""
    C, P = unfold_sizes(inner_units, outer, ALIGNMENT, CHANNELS_LAST)
    program = tl.program_id(0)
    if program < num_streaming_units:
        write_gradients_of_unit(
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
            num_streaming_units - 1 - program,
            eps,
            statistics_step,
            G,
            D,
            C,
            P,
            num_tiles,
            num_splits,
            chunks_per_split,
            ACTIVATION,
            SAVED_IS_OUTPUT,
            K,
            R,
            BC,
            CHANNELS_LAST,
        )
    elif sums_ptr is not None:
        write_parameter_gradients_of_unit(
            sums_ptr,
            dweight_ptr,
            dbias_ptr,
            program - num_streaming_units,
            num_sets,
            C,
            PARAMETER_SETS,
            PARAMETER_CHANNELS,
        )
