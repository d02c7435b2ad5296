"""Group normalization on a CPU, fast and exact in either layout.

For contiguous tensors torch's kernel is both. Its kernel for tensors whose channels lie innermost
has two weaknesses. It takes the variance as E[x^2] - E[x]^2, of which nothing is left at
mean / deviation = 1000. And where a group has one or two channels, it takes several times as long.
So there are two ways forward, and three backward, each the fastest for some shapes by measurement:

turned   The kernel for contiguous tensors, on copies that are turned there and back.
direct   The kernel for this layout. After it went forward, mean / deviation is looked at; where it
         is large anywhere, the result is thrown away and the turned way taken.
formula  The gradient written out in passes over long rows.

Axes: N clips, C channels, G groups, D = C / G channels of a group, P positions (T * H * W), R
positions that are packed in a row of R * C elements, Q = P / R rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch

# E[x^2] - E[x]^2 multiplies the roundings of the sums by the square of this, mean / deviation.
_LARGEST_RATIO = 2.0

# The kernel for this layout is slow backward where groups have so few channels and clips so many
# positions.
_WIDEST_SLOW_GROUP = 2
_LEAST_SLOW_POSITIONS = 2048

# So few channels are turned faster than the formula is computed.
_MOST_CHANNELS_TO_TURN = 8

# Fewer elements are not worth the calls.
_LEAST_ELEMENTS_TO_TURN = 16384
_LEAST_ELEMENTS_FOR_FORMULA = 65536

# Rows of so many elements keep torch's inner loops long where there are few channels.
_ROW_LENGTH = 256

# Up to so many clips and groups Python looks at them faster than torch.
_FEW_GROUPS = 16

_HALF = (torch.float16, torch.bfloat16)


def normalize_on_cpu(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """Returns the group normalization of x (N, C, *), in x's layout if its channels are innermost.

    Args:
        x: On a CPU, with any strides.
        num_groups: G; divides C.
        weight: Scale of each channel, in a dtype that torch's kernel takes beside x.
        bias: Offset of each channel, likewise.
        eps: Added to the variance.
    """
    if x.is_contiguous():
        return _run_kernel(x, num_groups, weight, bias, eps)[0]
    if torch.compiler.is_compiling():
        y, _, _ = _run_kernel(x.contiguous(), num_groups, weight, bias, eps)
        return y.contiguous(memory_format=_find_format(x))
    # What stands for a tensor of values, as while a model is exported, has none to look at. In half
    # precision mean and deviation come rounded.
    if type(x) is not torch.Tensor or x.dtype in _HALF:
        return _normalize_turned(x, num_groups, weight, bias, eps)
    shape, num_elements = x.shape, x.numel()
    num_clips, num_channels = shape[0], shape[1]
    num_positions = num_elements // (num_clips * num_channels)
    is_slow_backward = (
        num_positions >= _LEAST_SLOW_POSITIONS and num_channels <= num_groups * _WIDEST_SLOW_GROUP
    )
    if (
        is_slow_backward
        and num_channels <= _MOST_CHANNELS_TO_TURN
        and num_elements >= _LEAST_ELEMENTS_TO_TURN
    ):
        return _normalize_turned(x, num_groups, weight, bias, eps)
    if (
        is_slow_backward
        and num_elements >= _LEAST_ELEMENTS_FOR_FORMULA
        and weight is not None
        and bias is not None
        and x.ndim == 5
        and x.is_contiguous(memory_format=torch.channels_last_3d)
    ):
        y, mean_NG, rstd_NG = _FormulaBackward.apply(x, num_groups, weight, bias, eps)
    else:
        y, mean_NG, rstd_NG = torch.native_group_norm(
            x, weight, bias, num_clips, num_channels, num_positions, num_groups, eps
        )
    if _is_exact(mean_NG, rstd_NG):
        return y
    return _normalize_turned(x, num_groups, weight, bias, eps)


def _run_kernel(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns torch's y, mean (N, G) and 1 / deviation (N, G)."""
    num_clips, num_channels, *positions = x.shape
    return torch.native_group_norm(
        x, weight, bias, num_clips, num_channels, math.prod(positions), num_groups, eps
    )


def _is_exact(mean_NG: torch.Tensor, rstd_NG: torch.Tensor) -> bool:
    """Returns whether mean / deviation is small everywhere. It is not where there are NaNs."""
    # Up to some number, Python is faster than torch's calls.
    if mean_NG.numel() <= _FEW_GROUPS:
        for means, rstds in zip(mean_NG.tolist(), rstd_NG.tolist(), strict=True):
            for mean, rstd in zip(means, rstds, strict=True):
                if not -_LARGEST_RATIO <= mean * rstd <= _LARGEST_RATIO:
                    return False
        return True
    # Detached, or autograd would follow.
    ratio_NG = mean_NG.detach() * rstd_NG.detach()
    return ratio_NG.abs_().max().item() <= _LARGEST_RATIO


def _normalize_turned(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    # torch types apply as Any | None.
    turned_x: torch.Tensor = _Turn.apply(x)  # pyright: ignore[reportAssignmentType]
    y, _, _ = _run_kernel(turned_x, num_groups, weight, bias, eps)
    return y.contiguous(memory_format=_find_format(x))


def _find_format(x: torch.Tensor) -> torch.memory_format:
    """Returns x's layout; strides that fit none count as contiguous."""
    if x.stride(1) == 1 and x.ndim == 5:
        return torch.channels_last_3d
    if x.stride(1) == 1 and x.ndim == 4:
        return torch.channels_last
    return torch.contiguous_format


class _Turn(torch.autograd.Function):
    """Contiguous x, whose gradient is turned back, as the convolution before it wants it.

    The turned copy is what the kernel keeps, in place of x, which then nothing needs.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.format = _find_format(x)
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return grad_outputs[0].contiguous(memory_format=ctx.format)


class _FormulaBackward(torch.autograd.Function):
    """The direct way forward, the formula backward: y, mean (N, G) and 1 / deviation (N, G)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        num_groups: int,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, mean_NG, rstd_NG = _run_kernel(x, num_groups, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean_NG, rstd_NG)
        ctx.num_groups, ctx.eps = num_groups, eps
        ctx.mark_non_differentiable(mean_NG, rstd_NG)
        return y, mean_NG, rstd_NG

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dy = grad_outputs[0]
        if torch.is_grad_enabled():
            return _differentiate(ctx, dy)
        x, weight, _, mean_NG, rstd_NG = ctx.saved_tensors
        dx, dweight, dbias = _compute_gradients(x, weight, mean_NG, rstd_NG, dy)
        return dx, None, dweight, dbias, None


def _differentiate(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Returns the gradients of x, G, weight, bias and eps by torch, so that they have their own."""
    x, weight, bias, _, _ = ctx.saved_tensors
    y = torch.group_norm(x.contiguous(), ctx.num_groups, weight, bias, ctx.eps)
    is_needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:4])
    needed = [t for t, needs in zip((x, weight, bias), is_needed, strict=True) if needs]
    gradients = iter(torch.autograd.grad(y, needed, dy, create_graph=True))
    dx, dweight, dbias = (next(gradients) if needs else None for needs in is_needed)
    return dx, None, dweight, dbias, None


def _compute_gradients(
    x: torch.Tensor,
    weight: torch.Tensor,
    mean_NG: torch.Tensor,
    rstd_NG: torch.Tensor,
    dy: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns dx in x's layout, dweight and dbias.

    With x_hat = (x - mean) * rstd, dx_hat = dy * weight, and means over a group's D * P elements:
        dx = rstd * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))
    """
    N, C, T, H, W = x.shape
    G = mean_NG.shape[1]
    D = C // G
    P = T * H * W
    R = next(rows for rows in range(max(1, _ROW_LENGTH // C), 0, -1) if P % rows == 0)
    packed = (N, P // R, R * C)

    def spread(values_SNG1: torch.Tensor) -> torch.Tensor:
        """Returns values (S, N, G, 1 or D) of each group or channel as rows (S, N, 1, R * C)."""
        S = values_SNG1.shape[0]
        return values_SNG1[:, :, None].expand(S, N, R, G, D).reshape(S, N, 1, R * C)

    dy = dy.contiguous(memory_format=torch.channels_last_3d)
    dy_NQK = dy.permute(0, 2, 3, 4, 1).view(packed)
    x_NQK = x.permute(0, 2, 3, 4, 1).view(packed)
    centered_NQK = x_NQK - spread(mean_NG.view(1, N, G, 1))[0]
    product_NQK = dy_NQK * centered_NQK
    sums_2NGD = torch.stack((dy_NQK.sum(1), product_NQK.sum(1))).view(2, N, R, G, D).sum(2)

    rstd_NG1 = rstd_NG[..., None]
    sums_2NGD[1] *= rstd_NG1
    dbias, dweight = sums_2NGD.sum(1).view(2, C)
    weight_GD = weight.view(G, D)
    means_2NG1 = (sums_2NGD * weight_GD).sum(3, keepdim=True) / (D * P)
    means_2NG1 *= -rstd_NG1
    means_2NG1[1] *= rstd_NG1
    offset_N1K, slope_N1K = spread(means_2NG1)
    scale_N1K = spread((rstd_NG1 * weight_GD)[None])[0]
    dx_NQK = torch.addcmul(offset_N1K, dy_NQK, scale_N1K, out=product_NQK)
    dx_NQK.addcmul_(centered_NQK, slope_N1K)
    return dx_NQK.view(N, T, H, W, C).permute(0, 4, 1, 2, 3), dweight, dbias
