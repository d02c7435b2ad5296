"""Group and batch normalization, residual sum and activation by Triton's kernels.

Axes: N clips, C channels, G groups, * any number of positions.
"""

from __future__ import annotations

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.recomputation import is_running_again, offer_recomputation
from gnvideo.ops.triton_norm.derivatives import operators
from gnvideo.ops.triton_norm.obstacles import find_obstacle
from gnvideo.ops.triton_norm.sets import Variant

__all__ = ["Variant", "batch_norm_act_triton", "find_obstacle", "group_norm_act_triton"]


def group_norm_act_triton(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
    variant: Variant = "two-read",
) -> torch.Tensor:
    """Returns `gnvideo.ops.group_norm.group_norm_act` computed by Triton's kernels.

    Three launches forward and three backward, or one of each. The result of a clip is the same to
    the last bit in any batch, in every run and by either variant. Where `find_obstacle` finds one,
    this fails.
    """
    y, mean, var = operators.group_norm_act(
        x, weight, bias, residual, num_groups, eps, activation, variant
    )
    if activation is not None and residual is None:
        offer_recomputation(y, _normalize_again, x, mean, var, weight, bias, eps, activation)
    return y


def batch_norm_act_triton(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
    variant: Variant = "two-read",
) -> torch.Tensor:
    """Returns `gnvideo.ops.batch_norm.batch_norm_act` computed by Triton's kernels.

    Launches in training are those of group normalization; they move the running statistics, too. In
    evaluation there is one forward. Where `find_obstacle` finds one, this fails.
    """
    if training:
        # They are moved once a batch.
        is_moved = running_mean is not None and running_var is not None and not is_running_again()
        running = (running_mean, running_var) if is_moved else (None, None)
        y, mean, var = operators.batch_norm_act(
            x, *running, momentum, weight, bias, residual, eps, activation, variant
        )
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, var = running_mean, running_var
        y = operators.normalize_act(x, mean, var, weight, bias, residual, eps, activation)
    if activation is not None and residual is None:
        offer_recomputation(y, _normalize_again, x, mean, var, weight, bias, eps, activation)
    return y


def _normalize_again(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    activation: Activation,
) -> torch.Tensor:
    """Returns y by the launch that made it, on the same statistics."""
    return operators.normalize_act(x, mean, var, weight, bias, None, eps, activation)
