"""Group normalization by torch's own kernels, without three things that would spoil a comparison.

1. `torch.autocast` lifts group_norm to float32 on CUDA and leaves batch_norm in bfloat16. Not here.
2. torch's CPU kernel for channels_last computes the variance as E[x^2] - E[x]^2: see
   `on_cpu.py`.
3. `torch.nn.functional.group_norm` refuses one value per group for a single clip and accepts it for
   two, so one clip's result would depend on the batch. `torch.group_norm` does not ask.
"""

from __future__ import annotations

import torch

from gnvideo.ops.activation import Activation, add_and_activate_
from gnvideo.ops.group_norm.on_cpu import group_norm_act_on_cpu
from gnvideo.ops.recomputation import is_recording, recompute_in_backward

_HALF_DTYPES = (torch.float16, torch.bfloat16)


def group_norm_act_native(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
) -> torch.Tensor:
    """Returns `gnvideo.ops.group_norm.group_norm_act` computed by torch's kernels.

    On a CPU weight and bias are float32 beside a half precision x; elsewhere torch's kernels take
    one dtype, so they are rounded to x's.
    """
    if activation is not None and residual is None and is_recording():
        return recompute_in_backward(_run, x, num_groups, weight, bias, eps, None, activation)
    return _run(x, num_groups, weight, bias, eps, residual, activation)


def _run(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
) -> torch.Tensor:
    if (
        weight is None
        or bias is None
        or not weight.dtype == bias.dtype == x.dtype
        or x.dtype in _HALF_DTYPES
    ):
        weight, bias = _match_parameters(x, weight, bias)
    if x.is_cpu:
        return group_norm_act_on_cpu(x, num_groups, weight, bias, eps, residual, activation)
    y = _normalize_elsewhere(x, num_groups, weight, bias, eps)
    return add_and_activate_(y, residual, activation)


def _normalize_elsewhere(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    device_type = x.device.type
    # Devices such as meta have no autocast, and asking for its state fails there.
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            return torch.group_norm(x, num_groups, weight, bias, eps)
    return torch.group_norm(x, num_groups, weight, bias, eps)


def _match_parameters(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Returns weight and bias in the one dtype that torch's kernels accept beside x."""
    dtype = x.dtype
    if x.is_cpu and dtype in _HALF_DTYPES:
        # Beside float32 parameters, of which a weight has to be one, statistics are float32, too.
        dtype = torch.float32
        if weight is None:
            weight = torch.ones(x.shape[1], dtype=dtype)
    return (
        None if weight is None else weight.to(dtype),
        None if bias is None else bias.to(dtype),
    )
