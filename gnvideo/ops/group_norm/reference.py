"""Group normalization and its gradient by definition, in plain torch: what others are tested on.

Axes: N clips, C channels, G groups, D = C / G channels of a group, P positions (T * H * W),
K = D * P elements of a group.
"""

from __future__ import annotations

from typing import Any

import torch


def group_norm_reference(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """Returns `gnvideo.ops.group_norm.group_norm` computed step by step from its definition.

    Works in float32 for half precision inputs and in x's dtype otherwise; rounds once, at the end.
    Differentiable twice. Reads x several times and keeps temporaries of its size: it is written to
    be read.
    """
    return _GroupNorm.apply(x, num_groups, weight, bias, eps)  # pyright: ignore[reportReturnType] (torch types apply as Any | None)


class _GroupNorm(torch.autograd.Function):
    """Forward and backward written out.

    The backward derives the statistics again from x, so that it is itself a differentiable
    function of x, weight and the upstream gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        num_groups: int,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.num_groups = num_groups
        ctx.eps = eps
        x_hat_NCP, _ = _standardize(x, num_groups, eps)
        y_NCP = x_hat_NCP
        if weight is not None:
            y_NCP = y_NCP * weight.to(y_NCP.dtype)[:, None]
        if bias is not None:
            y_NCP = y_NCP + bias.to(y_NCP.dtype)[:, None]
        return _like(y_NCP, x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = grad_outputs
        x, weight, bias = ctx.saved_tensors
        x_hat_NCP, rstd_NG = _standardize(x, ctx.num_groups, ctx.eps)
        dy_NCP = dy.to(x_hat_NCP.dtype).reshape(x_hat_NCP.shape)

        dx = dweight = dbias = None
        if weight is not None and ctx.needs_input_grad[2]:
            dweight = (dy_NCP * x_hat_NCP).sum((0, 2)).to(weight.dtype)
        if bias is not None and ctx.needs_input_grad[3]:
            dbias = dy_NCP.sum((0, 2)).to(bias.dtype)
        if ctx.needs_input_grad[0]:
            # d x_hat = dy * weight. Of that, the parts along 1 and along x_hat are taken away:
            # x_hat's mean and variance are fixed in each group.
            dx_hat_NCP = dy_NCP
            if weight is not None:
                dx_hat_NCP = dy_NCP * weight.to(dy_NCP.dtype)[:, None]
            groups_NGK = (x.shape[0], ctx.num_groups, -1)
            dx_hat_NGK = dx_hat_NCP.reshape(groups_NGK)
            x_hat_NGK = x_hat_NCP.reshape(groups_NGK)
            along_one_NG = dx_hat_NGK.mean(2, keepdim=True)
            along_x_hat_NG = (dx_hat_NGK * x_hat_NGK).mean(2, keepdim=True)
            dx_NGK = rstd_NG[..., None] * (dx_hat_NGK - along_one_NG - x_hat_NGK * along_x_hat_NG)
            dx = _like(dx_NGK, x)
        return dx, None, dweight, dbias, None


def _standardize(x: torch.Tensor, num_groups: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns x_hat = (x - mean) / sqrt(var + eps) (N, C, P) and 1 / sqrt(var + eps) (N, G)."""
    dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    x_NGK = x.to(dtype).reshape(x.shape[0], num_groups, -1)
    # Two passes: E[x^2] - E[x]^2 loses all digits where the mean is far larger than the deviation.
    centered_NGK = x_NGK - x_NGK.mean(2, keepdim=True)
    var_NG = centered_NGK.square().mean(2)
    rstd_NG = (var_NG + eps).rsqrt()
    x_hat_NCP = (centered_NGK * rstd_NG[..., None]).reshape(x.shape[0], x.shape[1], -1)
    return x_hat_NCP, rstd_NG


def _like(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Returns `values` in the shape, dtype and memory format of x."""
    values = values.reshape(x.shape).to(x.dtype)
    if x.is_contiguous():
        return values
    for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.ndim == ndim and x.is_contiguous(memory_format=memory_format):
            return values.contiguous(memory_format=memory_format)
    return values
