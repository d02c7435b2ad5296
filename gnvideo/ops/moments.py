"""Mean and variance of each channel of each clip, and of what these are parts of.

A normalizer that takes its statistics from these small tensors needs no gradient of its own: torch
differentiates what it does with them.

Axes: N clips, C channels, G groups, D = C / G channels of a group, T frames, H height, W width,
P = T * H * W positions.
"""

from __future__ import annotations

import math
from typing import Any

import torch

_POSITIONS = (2, 3, 4)


def compute_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns x itself, and the mean and biased variance of each channel of each clip.

    What is computed of x and of the moments has to take the returned x. Then only x is kept for the
    backward pass, and the two parts of its gradient are added in float32 in one pass over it.

    Shape:
        x          (N, C, T, H, W), float16 / bfloat16 / float32 / float64; any strides
        mean, var  (N, C), float32 for half precision and x's dtype otherwise
    """
    return _Moments.apply(x)  # pyright: ignore[reportReturnType] (torch types apply as Any | None)


@torch.no_grad()
def compute_batch_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and biased variance (C,) of each channel over all clips, without a gradient.

    Shape:
        x          (N, C, *), float16 / bfloat16 / float32 / float64; any strides
        mean, var  (C,), float32 for half precision and x's dtype otherwise
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    lifted = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    var_C, mean_C = torch.var_mean(lifted, axes, correction=0)
    return mean_C, var_C


def pool_moments(
    mean_NC: torch.Tensor, var_NC: torch.Tensor, num_groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and biased variance (N, G) of each group of D successive channels.

    The channels' variance and the variance of their means are added, and nothing subtracted that
    could cancel.

    Args:
        mean_NC: Mean of each channel.
        var_NC: Biased variance of each channel, over as many elements in each.
        num_groups: G; divides C.
    """
    mean_NGD = mean_NC.unflatten(1, (num_groups, -1))
    var_NGD = var_NC.unflatten(1, (num_groups, -1))
    mean_NG = mean_NGD.mean(2)
    var_NG = (var_NGD + (mean_NGD - mean_NG[..., None]).square()).mean(2)
    return mean_NG, var_NG


def spread_groups(values_NG: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Returns values (*, G), one for each group of D successive channels, as (*, C)."""
    return values_NG.repeat_interleave(num_channels // values_NG.shape[-1], dim=-1)


class _Moments(torch.autograd.Function):
    """Two passes: E[x^2] - E[x]^2 loses all digits where the mean is far above the deviation."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        num_positions = math.prod(x.shape[2:])
        mean_NC111 = x.sum(_POSITIONS, keepdim=True, dtype=dtype) / num_positions
        var_NC = (x - mean_NC111).square_().sum(_POSITIONS) / num_positions
        ctx.save_for_backward(x, mean_NC111)
        return x.view_as(x), mean_NC111.flatten(1), var_NC

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        dx, dmean_NC, dvar_NC = grad_outputs
        x, mean_NC111 = ctx.saved_tensors
        num_positions = math.prod(x.shape[2:])
        slope_NC111 = (2 / num_positions * dvar_NC)[..., None, None, None]
        offset_NC111 = (dmean_NC / num_positions)[..., None, None, None]
        return ((x - mean_NC111) * slope_NC111 + offset_NC111 + dx).to(x.dtype)
