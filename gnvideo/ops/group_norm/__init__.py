"""Group normalization, residual sum and activation as one function over several implementations.

Axes: N clips, C channels, G groups, * any number of positions (T, H, W for clips).
"""

from __future__ import annotations

import torch

from gnvideo.errors import NormalizerError
from gnvideo.ops.activation import Activation
from gnvideo.ops.arguments import check_arguments
from gnvideo.ops.group_norm.native import group_norm_act_native
from gnvideo.ops.group_norm.reference import group_norm_act_reference
from gnvideo.ops.implementation import choose_implementation
from gnvideo.ops.triton_norm import find_obstacle, group_norm_act_triton

__all__ = ["group_norm_act", "run_group_norm_act"]


def group_norm_act(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    activation: Activation = None,
    implementation: str = "auto",
) -> torch.Tensor:
    """Returns x normalized over groups of channels, each clip by itself, then summed and activated.

    With S(n, g) the elements of channels [g * C/G, (g + 1) * C/G) at all positions of clip n:
        y = activation((x - mean_S) / sqrt(var_S + eps) * weight + bias + residual)
    The variance is biased.

    Shape:
        x         (N, C, *), float16 / bfloat16 / float32 / float64; any strides
        weight    (C,), x's dtype or float32
        bias      (C,), x's dtype or float32
        residual  x's shape, any floating point dtype
        output    (N, C, *) in x's dtype; channels_last and channels_last_3d are kept

    Statistics are float32 for half precision and x's dtype otherwise. `torch.autocast` changes
    nothing here: a bfloat16 input gives a bfloat16 output.

    Args:
        x: The clips.
        num_groups: G; must divide C.
        weight: Scale of each channel; None is 1.
        bias: Offset of each channel; None is 0.
        eps: Added to the variance.
        residual: What is added before the activation; None is nothing.
        activation: What follows: "relu", "silu" or None for nothing.
        implementation: A name in `gnvideo.ops.implementation.IMPLEMENTATIONS`.

    Raises:
        NormalizerError: The implementation is unknown or cannot run here, or x, num_groups, weight,
            bias or residual does not fit the others.

    Source: Wu and He, "Group Normalization", ECCV 2018, sec. 3.1, arXiv:1803.08494.
    """
    check_arguments("group_norm_act", x, weight, bias, residual)
    num_channels = x.shape[1]
    if num_groups < 1 or num_channels % num_groups != 0:
        raise NormalizerError(
            f"num_groups {num_groups} does not divide {num_channels} channels; "
            f"choose a divisor of {num_channels}"
        )
    return run_group_norm_act(
        x, num_groups, weight, bias, eps, residual, activation, implementation
    )


def run_group_norm_act(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
    implementation: str,
) -> torch.Tensor:
    """Returns `group_norm_act` of arguments that are known to fit each other.

    For small tensors on a CPU the checks would be a tenth of the work.
    """
    if implementation == "auto" and x.is_cpu:
        return group_norm_act_native(x, num_groups, weight, bias, eps, residual, activation)
    chosen = choose_implementation(
        "group_norm_act",
        implementation,
        x.device.type,
        lambda: find_obstacle(x, weight, bias, residual),
    )
    if chosen == "triton":
        return group_norm_act_triton(x, num_groups, weight, bias, eps, residual, activation)
    if chosen == "reference":
        return group_norm_act_reference(x, num_groups, weight, bias, eps, residual, activation)
    return group_norm_act_native(x, num_groups, weight, bias, eps, residual, activation)
