"""Batch normalization by definition: the group normalization of one clip that holds them all.

Axes: N clips, C channels, P positions (T * H * W).
"""

from __future__ import annotations

import torch

from gnvideo.ops.activation import Activation, activate_
from gnvideo.ops.group_norm.reference import group_norm_act_reference, keep_layout
from gnvideo.ops.moments import compute_batch_moments
from gnvideo.ops.recomputation import is_running_again


def batch_norm_act_reference(
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
    """Returns `gnvideo.ops.batch_norm.batch_norm_act` computed from its definition."""
    if not training:
        assert running_mean is not None
        assert running_var is not None
        return _apply_constants(
            x, running_mean, running_var, weight, bias, eps, residual, activation
        )
    num_elements = x.numel() // x.shape[1]
    if running_mean is not None and running_var is not None and not is_running_again():
        mean_C, var_C = compute_batch_moments(x)
        unbiased_var_C = var_C * (num_elements / (num_elements - 1))
        running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased_var_C.to(running_var.dtype), momentum)
    y_1CM = group_norm_act_reference(
        _join_clips(x),
        x.shape[1],
        weight,
        bias,
        eps,
        None if residual is None else _join_clips(residual),
        activation,
    )
    y_CNP = y_1CM[0].unflatten(1, (x.shape[0], -1))
    return keep_layout(y_CNP.transpose(0, 1).reshape(x.shape), x)


def _join_clips(x: torch.Tensor) -> torch.Tensor:
    """Returns x (N, C, *) as (1, C, N * P)."""
    return x.transpose(0, 1).reshape(1, x.shape[1], -1)


def _apply_constants(
    x: torch.Tensor,
    mean_C: torch.Tensor,
    var_C: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
) -> torch.Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)

    def spread(values_C: torch.Tensor) -> torch.Tensor:
        return values_C.to(dtype).reshape(-1, *(1 for _ in x.shape[2:]))

    z = (x.to(dtype) - spread(mean_C)) * spread((var_C.to(dtype) + eps).rsqrt())
    if weight is not None:
        z = z * spread(weight)
    if bias is not None:
        z = z + spread(bias)
    if residual is not None:
        z = z + residual.to(dtype)
    return keep_layout(activate_(z, activation), x)
