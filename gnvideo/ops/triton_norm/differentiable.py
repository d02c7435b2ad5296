"""The gradients in plain torch, for those who differentiate them again."""

from __future__ import annotations

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.differentiation import compute_differentiable_gradients
from gnvideo.ops.triton_norm.sets import Wanted, find_sets


def differentiate(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    saved: torch.Tensor | None,
    eps: float,
    activation: Activation,
    are_constants: bool,
    wanted: Wanted,
) -> tuple[torch.Tensor | None, ...]:
    """Returns dx, dweight, dbias and dresidual, None where not wanted, as functions of the inputs.

    Args: as those of `gnvideo.ops.triton_norm.launches.compute_gradients`.
    """
    from gnvideo.ops.batch_norm.reference import batch_norm_act_reference
    from gnvideo.ops.group_norm.reference import group_norm_act_reference

    dresidual = None
    if saved is not None and activation == "relu":
        # ReLU's own slope is constant wherever it has one.
        dy = dresidual = dy * (saved > 0)
        saved = activation = None
    sets = find_sets(mean)
    if are_constants:
        y = batch_norm_act_reference(x, mean, var, weight, bias, False, 0.0, eps, saved, activation)
    elif sets.joins_clips:
        y = batch_norm_act_reference(x, None, None, weight, bias, True, 0.0, eps, saved, activation)
    else:
        y = group_norm_act_reference(x, sets.num_groups, weight, bias, eps, saved, activation)
    gradients = compute_differentiable_gradients(y, (x, weight, bias, saved), wanted, dy)
    return (*gradients[:3], dresidual if dresidual is not None else gradients[3])
