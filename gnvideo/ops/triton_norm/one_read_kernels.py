# pyright: basic
"""The kernels that read a tensor once where a set fits the second-level cache: one launch each way.

All programs are resident at once. They take one set after the other: each reads its own units, all
wait for each other, a few merge, all wait again, and each takes its own units a second time, from
the cache. What they do is what the programs of `two_read_kernels.py` do, so the results are the
same to the last bit. The only atomic is an integer counter, on which they wait.

Axes and words: as in `forward_units.py`.
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


@triton.jit
def wait_for_all(counter_ptr, times):
    """Returns when every program has called it so many times; what they wrote can then be read."""
    # All threads of this program have to be done before the one that counts says so.
    tl.debug_barrier()
    wanted = times * tl.num_programs(0)
    arrived = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") + 1
    while arrived < wanted:
        arrived = tl.atomic_add(counter_ptr, 0, sem="acq_rel", scope="gpu")
    tl.debug_barrier()


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def normalize_at_once(
    x_ptr,
    residual_ptr,
    y_ptr,
    partial_ptr,
    mean_ptr,
    var_ptr,
    running_mean_ptr,
    running_var_ptr,
    weight_ptr,
    bias_ptr,
    counter_ptr,
    momentum,
    eps,
    statistics_step,
    G,
    D,
    num_sets,
    num_channels,
    units_per_set,
    rows_per_split,
    num_merge_tiles,
    num_entries,
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
    ENTRIES: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The forward pass."""
    C, P = unfold_sizes(inner_units, outer, ALIGNMENT, CHANNELS_LAST)
    program = tl.program_id(0)
    num_programs = tl.num_programs(0)
    for set_number in range(0, num_sets):
        first = set_number * units_per_set
        for unit in range(first + program, first + units_per_set, num_programs):
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
        wait_for_all(counter_ptr, 2 * set_number + 1)
        for tile in range(program, num_merge_tiles, num_programs):
            merge_moments_of_unit(
                partial_ptr,
                mean_ptr,
                var_ptr,
                running_mean_ptr,
                running_var_ptr,
                set_number * num_merge_tiles + tile,
                momentum,
                num_merge_tiles,
                num_entries,
                num_splits,
                rows_per_split,
                num_channels,
                P,
                G,
                D,
                ENTRIES,
                GROUPS,
                CHANNELS,
            )
        wait_for_all(counter_ptr, 2 * set_number + 2)
        for unit in range(first + program, first + units_per_set, num_programs):
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
def write_gradients_at_once(
    x_ptr,
    dy_ptr,
    saved_ptr,
    dz_ptr,
    left_dy_ptr,
    left_saved_ptr,
    left_dresidual_ptr,
    dx_ptr,
    partial_ptr,
    sums_ptr,
    means_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    dweight_ptr,
    dbias_ptr,
    counter_ptr,
    eps,
    statistics_step,
    G,
    D,
    num_sets,
    num_channels,
    units_per_set,
    num_parameter_units,
    num_merge_tiles,
    num_entries,
    inner_units,
    outer,
    num_tiles,
    num_splits,
    chunks_per_split,
    ACTIVATION: tl.constexpr,
    SAVED_IS_OUTPUT: tl.constexpr,
    LEFT_ACTIVATION: tl.constexpr,
    LEFT_SAVED_IS_OUTPUT: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    BC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ENTRIES: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PARAMETER_SETS: tl.constexpr,
    PARAMETER_CHANNELS: tl.constexpr,
):
    """The backward pass. Of dz a program takes up again only what it has itself written."""
    C, P = unfold_sizes(inner_units, outer, ALIGNMENT, CHANNELS_LAST)
    program = tl.program_id(0)
    num_programs = tl.num_programs(0)
    for set_number in range(0, num_sets):
        first = set_number * units_per_set
        for unit in range(first + program, first + units_per_set, num_programs):
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
                SAVED_IS_OUTPUT,
                K,
                R,
                BC,
                CHANNELS_LAST,
            )
        wait_for_all(counter_ptr, 2 * set_number + 1)
        for tile in range(program, num_merge_tiles, num_programs):
            merge_sums_of_unit(
                partial_ptr,
                sums_ptr,
                means_ptr,
                var_ptr,
                weight_ptr,
                set_number * num_merge_tiles + tile,
                eps,
                num_merge_tiles,
                num_entries,
                num_splits,
                num_channels,
                P,
                G,
                D,
                ENTRIES,
                GROUPS,
                CHANNELS,
            )
        wait_for_all(counter_ptr, 2 * set_number + 2)
        for unit in range(first + program, first + units_per_set, num_programs):
            write_gradients_of_unit(
                x_ptr,
                left_dy_ptr,
                left_saved_ptr,
                dx_ptr,
                left_dresidual_ptr,
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
                LEFT_ACTIVATION,
                LEFT_SAVED_IS_OUTPUT,
                K,
                R,
                BC,
                CHANNELS_LAST,
            )
    for unit in range(program, num_parameter_units, num_programs):
        write_parameter_gradients_of_unit(
            sums_ptr,
            dweight_ptr,
            dbias_ptr,
            unit,
            num_sets,
            C,
            PARAMETER_SETS,
            PARAMETER_CHANNELS,
        )
