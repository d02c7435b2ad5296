"""What every fused normalization asks of its tensors."""

from __future__ import annotations

import torch

from gnvideo.errors import NormalizerError


def check_arguments(
    operator: str,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    *others: tuple[str, torch.Tensor | None],
) -> None:
    """Returns nothing.

    Args:
        operator: Its name, for messages.
        x: (N, C, *).
        weight: (C,).
        bias: (C,).
        residual: Of x's shape.
        others: Names and tensors, (C,) each.

    Raises:
        NormalizerError: x is no floating point (N, C, *) or is empty, or another does not fit.
    """
    if x.ndim < 2 or not x.is_floating_point():
        raise NormalizerError(
            f"{operator} needs a floating point tensor (N, C, *), "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    if x.numel() == 0:
        raise NormalizerError(
            f"{operator} has nothing to normalize: the input of shape {tuple(x.shape)} is empty; "
            f"leave it out"
        )
    num_channels = x.shape[1]
    for name, parameter in (("weight", weight), ("bias", bias), *others):
        if parameter is not None and parameter.shape != (num_channels,):
            raise NormalizerError(
                f"{operator} {name} has shape {tuple(parameter.shape)}; "
                f"{num_channels} channels need ({num_channels},)"
            )
    # Autocast leaves some tensors in float32, pooled ones on a CPU, so dtypes may differ.
    if residual is not None and (residual.shape != x.shape or not residual.is_floating_point()):
        raise NormalizerError(
            f"{operator} residual is {residual.dtype} of shape {tuple(residual.shape)}; "
            f"it is added to x and needs x's shape {tuple(x.shape)} and a floating point dtype"
        )
