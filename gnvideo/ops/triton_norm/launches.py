"""Launches of the kernels: what is allocated, and which launches a result takes.

Axes: N clips, C channels, G groups, P positions, S splits.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.triton_norm import two_read_kernels
from gnvideo.ops.triton_norm.layout import find_layout
from gnvideo.ops.triton_norm.plan import NUM_WARPS, Plan, make_merge_plan, make_plan
from gnvideo.ops.triton_norm.sets import Sets, Wanted

# Triton annotates a constant by the type that it has inside of a kernel.
_kernels: Any = two_read_kernels
# Triton warns where this is left open, since its default will change.
_OPTIONS = {"enable_fp_fusion": True}
# The interpreter runs programs one after the other; so many make several splits of small tensors.
_INTERPRETED_MULTIPROCESSORS = 2
_MERGE_OPTIONS = {"num_warps": 4, **_OPTIONS}
# Without this limit the sums take so many that only one program fits a multiprocessor.
SUMS_REGISTERS = 128
# Sets and channels that a program adds up for dweight and dbias.
PARAMETER_BLOCK = {"SETS": 16, "CHANNELS": 128}


def compute_statistics(x: torch.Tensor, sets: Sets) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and biased variance, float32: (N, G), or (C,) where all clips are one set."""
    plan = _plan_for(x, sets)
    partial = _allocate_workspace(x, plan)
    num_sets, num_entries = _count_sets(plan, sets)
    shape = (num_sets, sets.num_groups)[sets.joins_clips :]
    mean = torch.empty(shape, dtype=torch.float32, device=x.device)
    var = torch.empty_like(mean)
    merge = make_merge_plan(plan.num_channels, sets.num_groups, num_entries)
    _kernels.write_moments[(plan.num_units,)](x, partial, *_list_sizes(plan), **describe_tile(plan))
    _kernels.merge_moments[(num_sets * merge.num_tiles,)](
        partial,
        mean,
        var,
        merge.num_tiles,
        num_entries,
        plan.num_splits,
        plan.rows_per_split,
        plan.num_channels,
        plan.num_positions,
        sets.num_groups,
        plan.num_channels // sets.num_groups,
        ENTRIES=merge.block_entries,
        GROUPS=merge.block_groups,
        CHANNELS=merge.block_channels,
        **_MERGE_OPTIONS,
    )
    return mean, var


def normalize(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
    sets: Sets,
) -> torch.Tensor:
    """Returns y of the statistics given, in one launch."""
    plan = _plan_for(x, sets)
    y = torch.empty_like(x)
    _kernels.normalize[(plan.num_units,)](
        x,
        residual,
        y,
        mean,
        var,
        weight,
        bias,
        eps,
        0 if sets.joins_clips else sets.num_groups,
        plan.num_channels // sets.num_groups,
        *_list_sizes(plan),
        ACTIVATION=activation,
        **describe_tile(plan),
    )
    return y


def compute_gradients(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    saved: torch.Tensor | None,
    activation: Activation,
    sets: Sets,
    wanted: Wanted,
    *,
    are_constants: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Returns dx, dweight, dbias and dresidual, None where it is not wanted.

    Three launches; one where the statistics are constants and no parameter's gradient is wanted.

    Args:
        dy: Gradient of y, in x's dtype and layout.
        x: As in the forward pass, like mean, var, weight, bias and eps.
        mean: The statistics.
        var: Their biased variance.
        weight: Scale of each channel.
        bias: Offset of each channel.
        eps: Added to the variance.
        saved: With a residual: y if the activation is ReLU, and the residual if it is SiLU.
        activation: What followed.
        sets: What shares statistics.
        wanted: Which gradients are wanted; dresidual only with an activation.
        are_constants: Whether the statistics do not depend on x.
    """
    plan = _plan_for(x, sets)
    num_groups = sets.num_groups
    num_sets, num_entries = _count_sets(plan, sets)
    statistics = (eps, 0 if sets.joins_clips else num_groups)
    group_size = plan.num_channels // num_groups
    saved_is_output = saved is not None and activation == "relu"

    dx = torch.empty_like(x) if wanted.x else None
    dresidual = torch.empty_like(x) if wanted.residual else None
    dweight = torch.empty_like(weight) if weight is not None and wanted.weight else None
    dbias = torch.empty_like(bias) if bias is not None and wanted.bias else None
    wants_parameters = dweight is not None or dbias is not None
    left = _DzSource(dy, saved, dresidual, activation, saved_is_output)
    sums = means = None
    if wants_parameters or (wanted.x and not are_constants):
        # ReLU's dz is dy or 0, so it is exact in any dtype: written once, it need not be found from
        # dy and y again. SiLU's would be rounded in between.
        written = dresidual if saved_is_output else None
        partial = _allocate_workspace(x, plan)
        _kernels.write_sums[(plan.num_units,)](
            x,
            dy,
            saved,
            written,
            partial,
            mean,
            var,
            weight,
            bias,
            *statistics,
            group_size,
            *_list_sizes(plan),
            ACTIVATION=activation,
            SAVED_IS_OUTPUT=saved_is_output,
            **describe_tile(plan),
            maxnreg=SUMS_REGISTERS,
        )
        sums = torch.empty(num_sets, 2, plan.num_channels, dtype=torch.float32, device=x.device)
        if wanted.x and not are_constants:
            means = torch.empty(num_sets, 2, num_groups, dtype=torch.float32, device=x.device)
        merge = make_merge_plan(plan.num_channels, num_groups, num_entries)
        _kernels.merge_sums[(num_sets * merge.num_tiles,)](
            partial,
            sums,
            means,
            var,
            weight,
            eps,
            merge.num_tiles,
            num_entries,
            plan.num_splits,
            plan.num_channels,
            plan.num_positions,
            num_groups,
            group_size,
            ENTRIES=merge.block_entries,
            GROUPS=merge.block_groups,
            CHANNELS=merge.block_channels,
            **_MERGE_OPTIONS,
        )
        if written is not None:
            left = _DzSource(written, None, None, None, False)
    streams = plan.num_units if dx is not None or left.dresidual is not None else 0
    columns = -(-plan.num_channels // PARAMETER_BLOCK["CHANNELS"]) if wants_parameters else 0
    if streams + columns > 0:
        _kernels.write_gradients[(streams + columns,)](
            x,
            left.dy,
            left.saved,
            dx,
            left.dresidual,
            mean,
            var,
            means,
            weight,
            bias,
            sums,
            dweight,
            dbias,
            *statistics,
            num_groups,
            group_size,
            num_sets,
            streams,
            *_list_sizes(plan),
            ACTIVATION=left.activation,
            SAVED_IS_OUTPUT=left.saved_is_output,
            **describe_tile(plan),
            **PARAMETER_BLOCK,
        )
    return dx, dweight, dbias, dresidual


class _DzSource(NamedTuple):
    """From what the last launch finds dz, and where it writes it."""

    dy: torch.Tensor
    saved: torch.Tensor | None
    dresidual: torch.Tensor | None
    activation: Activation
    saved_is_output: bool


def _plan_for(x: torch.Tensor, sets: Sets) -> Plan:
    num_clips, num_channels = x.shape[:2]
    return make_plan(
        num_clips,
        num_channels,
        x.numel() // (num_clips * num_channels),
        x.element_size(),
        find_layout(x) == "channels_last",
        _count_multiprocessors(x.device),
        fills_with_all_clips=sets.joins_clips,
    )


@functools.cache
def _count_multiprocessors(device: torch.device) -> int:
    if device.type == "cpu":
        return _INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _count_sets(plan: Plan, sets: Sets) -> tuple[int, int]:
    """Returns the number of sets, and of entries (splits) of each."""
    if sets.joins_clips:
        return 1, plan.num_clips * plan.num_splits
    return plan.num_clips, plan.num_splits


def _allocate_workspace(x: torch.Tensor, plan: Plan) -> torch.Tensor:
    return torch.empty(plan.workspace_shape, dtype=torch.float32, device=x.device)


def _list_sizes(plan: Plan) -> tuple[int, ...]:
    """Returns a streaming kernel's last numbers, from `inner_units` on."""
    inner, outer = plan.num_positions, plan.num_channels
    if plan.is_channels_last:
        inner, outer = outer, inner
    sizes = (inner // plan.alignment, outer)
    return (*sizes, plan.num_tiles, plan.num_splits, plan.chunks_per_split)


def describe_tile(plan: Plan) -> dict[str, Any]:
    """Returns a streaming kernel's constants, from `ALIGNMENT` on."""
    return {
        "ALIGNMENT": plan.alignment,
        "K": plan.rows_per_thread,
        "R": plan.block_rows,
        "BC": plan.block_channels,
        "CHANNELS_LAST": plan.is_channels_last,
        "num_warps": NUM_WARPS,
        **_OPTIONS,
    }
