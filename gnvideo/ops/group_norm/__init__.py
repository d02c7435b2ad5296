"""Group normalization as one function over several implementations.

Axes: N clips, C channels, G groups, * any number of positions (T, H, W for clips).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from gnvideo.errors import NormalizerError
from gnvideo.ops.group_norm.native import group_norm_native
from gnvideo.ops.group_norm.reference import group_norm_reference

__all__ = ["IMPLEMENTATIONS", "group_norm", "group_norm_native", "group_norm_reference"]

_Implementation = Callable[
    [torch.Tensor, int, torch.Tensor | None, torch.Tensor | None, float], torch.Tensor
]

IMPLEMENTATIONS: Mapping[str, _Implementation] = MappingProxyType(
    {"native": group_norm_native, "reference": group_norm_reference}
)


def group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    implementation: str = "native",
) -> torch.Tensor:
    """Returns x normalized over groups of channels, each clip by itself.

    With S(n, g) the elements of channels [g * C/G, (g + 1) * C/G) at all positions of clip n:
        y = (x - mean_S) / sqrt(var_S + eps) * weight + bias        (biased variance)

    Shape:
        x       (N, C, *), float16 / bfloat16 / float32 / float64; any strides
        weight  (C,), x's dtype or float32
        bias    (C,), x's dtype or float32
        output  (N, C, *) in x's dtype; channels_last and channels_last_3d are kept

    Statistics are float32 for half precision and x's dtype otherwise. `torch.autocast` changes
    nothing here: a bfloat16 input gives a bfloat16 output.

    Args:
        x: The clips.
        num_groups: G; must divide C.
        weight: Scale of each channel; None is 1.
        bias: Offset of each channel; None is 0.
        eps: Added to the variance.
        implementation: A name in `IMPLEMENTATIONS`.

    Raises:
        NormalizerError: The implementation is unknown, or x, num_groups, weight or bias does not
            fit the others.

    Source: Wu and He, "Group Normalization", ECCV 2018, sec. 3.1, arXiv:1803.08494.
    """
    if implementation not in IMPLEMENTATIONS:
        raise NormalizerError(
            f"unknown group_norm implementation {implementation!r}; "
            f"choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    _check_arguments(x, num_groups, weight, bias)
    return IMPLEMENTATIONS[implementation](x, num_groups, weight, bias, eps)


def _check_arguments(
    x: torch.Tensor, num_groups: int, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> None:
    if x.ndim < 2 or not x.is_floating_point():
        raise NormalizerError(
            f"group_norm needs a floating point tensor (N, C, *), "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    num_channels = x.shape[1]
    if num_groups < 1 or num_channels % num_groups != 0:
        raise NormalizerError(
            f"num_groups {num_groups} does not divide {num_channels} channels; "
            f"choose a divisor of {num_channels}"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != (num_channels,):
            raise NormalizerError(
                f"group_norm {name} has shape {tuple(parameter.shape)}; "
                f"{num_channels} channels need ({num_channels},)"
            )
