"""Batch normalization by torch's own kernels."""

from __future__ import annotations

import torch
from torch.nn import functional

from gnvideo.ops.activation import Activation, activate_


def batch_norm_act_native(
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
) -> torch.Tensor:
    """Returns `gnvideo.ops.batch_norm.batch_norm_act` computed by torch's kernels."""
    y = functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if residual is not None:
        y += residual
    return activate_(y, activation)
