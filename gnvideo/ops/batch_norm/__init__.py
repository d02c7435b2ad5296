"""Batch normalization, residual sum and activation as one function over several implementations.

Axes: N clips, C channels, * any number of positions (T, H, W for clips).
"""

from __future__ import annotations

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.arguments import check_arguments
from gnvideo.ops.batch_norm.native import batch_norm_act_native
from gnvideo.ops.batch_norm.reference import batch_norm_act_reference
from gnvideo.ops.implementation import choose_implementation
from gnvideo.ops.triton_norm import batch_norm_act_triton, find_obstacle

__all__ = ["batch_norm_act"]


def batch_norm_act(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    activation: Activation = None,
    implementation: str = "auto",
) -> torch.Tensor:
    """Returns x normalized over the batch, channel by channel, then summed and activated.

    For each channel, over all clips and positions:
        y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual)
    In training mean and (biased) variance are the batch's, and the running ones, if given, move
    towards the batch's mean and unbiased variance by `momentum`; otherwise they are the running
    ones.

    Shape:
        x          (N, C, *), float16 / bfloat16 / float32 / float64; any strides
        others     (C,), x's dtype or float32
        residual   x's shape, any floating point dtype
        output     (N, C, *) in x's dtype; channels_last and channels_last_3d are kept

    Statistics are float32 for half precision and x's dtype otherwise; `torch.autocast` changes
    nothing here.

    Args:
        x: The clips.
        running_mean: Moved in training; None is not tracked.
        running_var: Moved in training; None is not tracked.
        weight: Scale of each channel; None is 1.
        bias: Offset of each channel; None is 0.
        training: Whether the statistics are the batch's.
        momentum: Weight of the batch in the running statistics.
        eps: Added to the variance.
        residual: What is added before the activation; None is nothing.
        activation: What follows: "relu", "silu" or None for nothing.
        implementation: A name in `gnvideo.ops.implementation.IMPLEMENTATIONS`.

    Raises:
        NormalizerError: The implementation is unknown or cannot run here, or a tensor does not fit
            the others.
        ValueError: In training, a channel has a single value.

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167.
    """
    statistics = (("running_mean", running_mean), ("running_var", running_var))
    check_arguments("batch_norm_act", x, weight, bias, residual, *statistics)
    if training and x.numel() == x.shape[1]:
        raise ValueError(
            f"batch normalization needs more than one value per channel in training, "
            f"got an input of shape {tuple(x.shape)}"
        )
    chosen = choose_implementation(
        "batch_norm_act",
        implementation,
        x.device.type,
        lambda: find_obstacle(x, weight, bias, residual, running_mean, running_var),
    )
    return _IMPLEMENTATIONS[chosen](
        x,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        residual,
        activation,
    )


_IMPLEMENTATIONS = {
    "reference": batch_norm_act_reference,
    "native": batch_norm_act_native,
    "triton": batch_norm_act_triton,
}
