"""Group normalization and its gradient by definition, in plain torch: what others are tested on.

Axes: N clips, C channels, G groups, D = C / G channels of a group, P positions (T * H * W),
K = D * P elements of a group.
"""

from __future__ import annotations

from typing import Any

import torch

from gnvideo.ops.activation import Activation, activate_, compute_activation_slope


def group_norm_act_reference(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
) -> torch.Tensor:
    """Returns `gnvideo.ops.group_norm.group_norm_act` computed step by step from its definition.

    Works in float32 for half precision inputs and in x's dtype otherwise; rounds once, at the end.
    Differentiable twice. Reads x several times and keeps temporaries of its size: it is written to
    be read.
    """
    return _GroupNormAct.apply(x, num_groups, weight, bias, eps, residual, activation)  # pyright: ignore[reportReturnType] (torch types apply as Any | None)


class _GroupNormAct(torch.autograd.Function):
    """Forward and backward written out.

    The backward derives the statistics again from x, so that it is itself a differentiable
    function of x, weight, bias, residual and the upstream gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        num_groups: int,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        residual: torch.Tensor | None,
        activation: Activation,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias, residual)
        ctx.num_groups = num_groups
        ctx.eps = eps
        ctx.activation = activation
        x_hat_NCP, _ = _standardize(x, num_groups, eps)
        z_NCP = _scale_and_add(x_hat_NCP, weight, bias, residual)
        return keep_layout(activate_(z_NCP, activation), x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = grad_outputs
        x, weight, bias, residual = ctx.saved_tensors
        x_hat_NCP, rstd_NG = _standardize(x, ctx.num_groups, ctx.eps)
        z_NCP = _scale_and_add(x_hat_NCP, weight, bias, residual)
        dz_NCP = dy.to(z_NCP.dtype).reshape(z_NCP.shape)
        dz_NCP = dz_NCP * compute_activation_slope(z_NCP, ctx.activation)

        dx = dweight = dbias = dresidual = None
        if weight is not None and ctx.needs_input_grad[2]:
            dweight = (dz_NCP * x_hat_NCP).sum((0, 2)).to(weight.dtype)
        if bias is not None and ctx.needs_input_grad[3]:
            dbias = dz_NCP.sum((0, 2)).to(bias.dtype)
        if residual is not None and ctx.needs_input_grad[5]:
            dresidual = keep_layout(dz_NCP, residual)
        if ctx.needs_input_grad[0]:
            # d x_hat = dz * weight. Of that, the parts along 1 and along x_hat are taken away:
            # x_hat's mean and variance are fixed in each group.
            dx_hat_NCP = dz_NCP
            if weight is not None:
                dx_hat_NCP = dz_NCP * weight.to(dz_NCP.dtype)[:, None]
            groups_NGK = (x.shape[0], ctx.num_groups, -1)
            dx_hat_NGK = dx_hat_NCP.reshape(groups_NGK)
            x_hat_NGK = x_hat_NCP.reshape(groups_NGK)
            along_one_NG = dx_hat_NGK.mean(2, keepdim=True)
            along_x_hat_NG = (dx_hat_NGK * x_hat_NGK).mean(2, keepdim=True)
            dx_NGK = rstd_NG[..., None] * (dx_hat_NGK - along_one_NG - x_hat_NGK * along_x_hat_NG)
            dx = keep_layout(dx_NGK, x)
        return dx, None, dweight, dbias, None, dresidual, None


def _scale_and_add(
    x_hat_NCP: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """Returns x_hat * weight + bias + residual as a new tensor (N, C, P), in x_hat's dtype."""
    dtype = x_hat_NCP.dtype
    z_NCP = x_hat_NCP.clone() if weight is None else x_hat_NCP * weight.to(dtype)[:, None]
    if bias is not None:
        z_NCP = z_NCP + bias.to(dtype)[:, None]
    if residual is not None:
        z_NCP = z_NCP + residual.to(dtype).reshape(z_NCP.shape)
    return z_NCP


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


def keep_layout(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Returns `values` in the shape, dtype and memory format of x."""
    values = values.reshape(x.shape).to(x.dtype)
    if x.is_contiguous():
        return values.contiguous()
    for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.ndim == ndim and x.is_contiguous(memory_format=memory_format):
            return values.contiguous(memory_format=memory_format)
    return values
