"""Launches of the kernels that read a tensor once.

Axes: N clips, C channels, G groups.
"""

from __future__ import annotations

from typing import Any

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.triton_norm import one_read_kernels
from gnvideo.ops.triton_norm.division import OPTIONS as COMMON_OPTIONS
from gnvideo.ops.triton_norm.division import Division, divide
from gnvideo.ops.triton_norm.launches import (
    PARAMETER_BLOCK,
    Gradients,
    allocate_gradients,
    allocate_statistics,
    allocate_sums,
    count_parameter_units,
    find_left,
    find_source,
)
from gnvideo.ops.triton_norm.sets import Running, Sets, Wanted

_kernels: Any = one_read_kernels
_PROGRAMS_PER_MULTIPROCESSOR = 2
# So that so many programs are resident: all wait for all, so the launch fails where they are not.
OPTIONS = {**COMMON_OPTIONS, "maxnreg": 128, "launch_cooperative_grid": True}


def normalize_at_once(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
    sets: Sets,
    running: Running,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns y, mean and biased variance, (N, G) or (C,), in one launch."""
    division = divide(x, sets)
    y = torch.empty_like(x)
    mean, var = allocate_statistics(x, sets, division)
    _kernels.normalize_at_once[(_count_programs(x, division),)](
        x,
        residual,
        y,
        division.allocate_workspace(x),
        mean,
        var,
        running.mean,
        running.var,
        weight,
        bias,
        _make_counter(x),
        running.momentum,
        eps,
        division.statistics_step,
        division.num_groups,
        division.group_size,
        division.num_sets,
        division.plan.num_channels,
        division.units_per_set,
        division.plan.rows_per_split,
        *division.merge_sizes,
        *division.sizes,
        ACTIVATION=activation,
        **division.tile,
        **division.merge_tile,
        **OPTIONS,
    )
    return y, mean, var


def compute_gradients_at_once(
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
) -> Gradients:
    """Returns `gnvideo.ops.triton_norm.launches.compute_gradients` in one launch.

    The statistics are those of x, and dx is wanted.
    """
    division = divide(x, sets)
    gradients = allocate_gradients(x, weight, bias, wanted)
    sums, means = allocate_sums(x, division, has_means=True)
    source = find_source(dy, saved, gradients.residual, activation)
    written, left = find_left(source)
    wants_parameters = gradients.weight is not None or gradients.bias is not None
    _kernels.write_gradients_at_once[(_count_programs(x, division),)](
        x,
        source.dy,
        source.saved,
        written,
        left.dy,
        left.saved,
        left.dresidual,
        gradients.x,
        division.allocate_workspace(x),
        sums,
        means,
        mean,
        var,
        weight,
        bias,
        gradients.weight,
        gradients.bias,
        _make_counter(x),
        eps,
        division.statistics_step,
        division.num_groups,
        division.group_size,
        division.num_sets,
        division.plan.num_channels,
        division.units_per_set,
        count_parameter_units(division) if wants_parameters else 0,
        *division.merge_sizes,
        *division.sizes,
        ACTIVATION=source.activation,
        SAVED_IS_OUTPUT=source.saved_is_output,
        LEFT_ACTIVATION=left.activation,
        LEFT_SAVED_IS_OUTPUT=left.saved_is_output,
        **division.tile,
        **division.merge_tile,
        **PARAMETER_BLOCK,
        **OPTIONS,
    )
    return gradients


def _count_programs(x: torch.Tensor, division: Division) -> int:
    """Returns as many as are resident at once; the interpreter runs one after the other."""
    if x.device.type == "cpu":
        return 1
    return min(division.units_per_set, _PROGRAMS_PER_MULTIPROCESSOR * division.num_multiprocessors)


def _make_counter(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32, device=x.device)
