"""Launches of the kernels: what is allocated, and which launches a result takes.

Axes: N clips, C channels, G groups, P positions, S splits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.triton_norm import two_read_kernels
from gnvideo.ops.triton_norm.division import OPTIONS, Division, divide
from gnvideo.ops.triton_norm.sets import Running, Sets, Wanted

# Triton annotates a constant by the type that it has inside of a kernel.
_kernels: Any = two_read_kernels
# Without this limit what reads x first takes so many that only one program fits a multiprocessor.
REGISTERS = 128
# Sets and channels that a program adds up for dweight and dbias.
PARAMETER_BLOCK = {"PARAMETER_SETS": 16, "PARAMETER_CHANNELS": 128}


def compute_statistics(
    x: torch.Tensor, sets: Sets, running: Running
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and biased variance, float32: (N, G), or (C,) where all clips are one set."""
    division = divide(x, sets)
    plan = division.plan
    partial = division.allocate_workspace(x)
    mean, var = allocate_statistics(x, sets, division)
    _kernels.write_moments[(plan.num_units,)](
        x, partial, *division.sizes, **division.tile, **OPTIONS, maxnreg=REGISTERS
    )
    _kernels.merge_moments[(division.num_sets * division.merge.num_tiles,)](
        partial,
        mean,
        var,
        *running,
        *division.merge_sizes,
        plan.num_splits,
        plan.rows_per_split,
        plan.num_channels,
        plan.num_positions,
        division.num_groups,
        division.group_size,
        **division.merge_tile,
        **OPTIONS,
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
    division = divide(x, sets)
    y = torch.empty_like(x)
    _kernels.normalize[(division.plan.num_units,)](
        x,
        residual,
        y,
        mean,
        var,
        weight,
        bias,
        eps,
        division.statistics_step,
        division.group_size,
        *division.sizes,
        ACTIVATION=activation,
        **division.tile,
        **OPTIONS,
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
) -> Gradients:
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
    division = divide(x, sets)
    plan = division.plan
    gradients = allocate_gradients(x, weight, bias, wanted)
    wants_parameters = gradients.weight is not None or gradients.bias is not None
    wants_means = wanted.x and not are_constants
    source = left = find_source(dy, saved, gradients.residual, activation)
    sums = means = None
    if wants_parameters or wants_means:
        written, left = find_left(source)
        partial = division.allocate_workspace(x)
        sums, means = allocate_sums(x, division, has_means=wants_means)
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
            eps,
            division.statistics_step,
            division.group_size,
            *division.sizes,
            ACTIVATION=activation,
            SAVED_IS_OUTPUT=source.saved_is_output,
            **division.tile,
            **OPTIONS,
            maxnreg=REGISTERS,
        )
        _kernels.merge_sums[(division.num_sets * division.merge.num_tiles,)](
            partial,
            sums,
            means,
            var,
            weight,
            eps,
            *division.merge_sizes,
            plan.num_splits,
            plan.num_channels,
            plan.num_positions,
            division.num_groups,
            division.group_size,
            **division.merge_tile,
            **OPTIONS,
        )
    streams = plan.num_units if wanted.x or left.dresidual is not None else 0
    columns = count_parameter_units(division) if wants_parameters else 0
    if streams + columns > 0:
        _kernels.write_gradients[(streams + columns,)](
            x,
            left.dy,
            left.saved,
            gradients.x,
            left.dresidual,
            mean,
            var,
            means,
            weight,
            bias,
            sums,
            gradients.weight,
            gradients.bias,
            eps,
            division.statistics_step,
            division.num_groups,
            division.group_size,
            division.num_sets,
            streams,
            *division.sizes,
            ACTIVATION=left.activation,
            SAVED_IS_OUTPUT=left.saved_is_output,
            **division.tile,
            **PARAMETER_BLOCK,
            **OPTIONS,
        )
    return gradients


class Gradients(NamedTuple):
    """Those that are wanted; None in place of others."""

    x: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    residual: torch.Tensor | None


def allocate_statistics(
    x: torch.Tensor, sets: Sets, division: Division
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns memory for mean and variance."""
    shape = (division.num_sets, division.num_groups)[sets.joins_clips :]
    mean = torch.empty(shape, dtype=torch.float32, device=x.device)
    return mean, torch.empty_like(mean)


def allocate_gradients(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, wanted: Wanted
) -> Gradients:
    """Returns memory for the gradients that are wanted."""
    return Gradients(
        torch.empty_like(x) if wanted.x else None,
        torch.empty_like(weight) if weight is not None and wanted.weight else None,
        torch.empty_like(bias) if bias is not None and wanted.bias else None,
        torch.empty_like(x) if wanted.residual else None,
    )


def allocate_sums(
    x: torch.Tensor, division: Division, *, has_means: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns memory for two sums of each channel of each set, and two means of each group."""
    sums = torch.empty(
        division.num_sets, 2, division.plan.num_channels, dtype=torch.float32, device=x.device
    )
    means = sums.new_empty(division.num_sets, 2, division.num_groups) if has_means else None
    return sums, means


def count_parameter_units(division: Division) -> int:
    """Returns how many programs write dweight and dbias."""
    return -(-division.plan.num_channels // PARAMETER_BLOCK["PARAMETER_CHANNELS"])


class DzSource(NamedTuple):
    """From what a launch finds dz, and where it writes it."""

    dy: torch.Tensor
    saved: torch.Tensor | None
    dresidual: torch.Tensor | None
    activation: Activation
    saved_is_output: bool


def find_source(
    dy: torch.Tensor,
    saved: torch.Tensor | None,
    dresidual: torch.Tensor | None,
    activation: Activation,
) -> DzSource:
    """Returns from what the first launch finds dz."""
    return DzSource(dy, saved, dresidual, activation, saved is not None and activation == "relu")


def find_left(source: DzSource) -> tuple[torch.Tensor | None, DzSource]:
    """Returns where the sums write dz, and from what the gradients then find it.

    ReLU's dz is dy or 0, so it is exact in any dtype: written with the sums, it need not be found
    from dy and y again. SiLU's would be rounded in between.
    """
    if source.saved_is_output and source.dresidual is not None:
        return source.dresidual, DzSource(source.dresidual, None, None, None, False)
    return None, source
