"""Batch normalization by torch's own kernels."""

from __future__ import annotations

import torch

from gnvideo.ops.activation import Activation, add_and_activate_
from gnvideo.ops.recomputation import is_recording, is_running_again, recompute_in_backward


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
    if activation is not None and residual is None and is_recording():
        settings = (training, momentum, eps, activation)
        return recompute_in_backward(
            _run, x, weight, bias, None, running_mean, running_var, *settings
        )
    return _run(
        x, weight, bias, residual, running_mean, running_var, training, momentum, eps, activation
    )


def _run(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: Activation,
) -> torch.Tensor:
    if training and running_mean is not None and running_var is not None and is_running_again():
        # They are moved once a batch. With none, autograd would not keep what it kept before.
        running_mean, running_var = running_mean.clone(), running_var.clone()
    # Not torch.nn.functional.batch_norm, which checks the shape another time.
    y = torch.batch_norm(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        training,
        momentum,
        eps,
        torch.backends.cudnn.enabled,
    )
    return add_and_activate_(y, residual, activation)
