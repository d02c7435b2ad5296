"""Group normalization on a CPU, exact in either layout.

For contiguous tensors torch's kernel is exact, and fast. Its kernel for tensors whose channels lie
innermost takes the variance as E[x^2] - E[x]^2, of plain float32 sums: nothing is left of it at
mean / deviation = 1000, and long sums lose digits with any mean. Where groups have one or two
channels it is several times slower, too. So there are two ways:

turned   The kernel for contiguous tensors, on a copy that is turned there, and a result that is
         turned back. A clip's result does not depend on the others.
direct   The kernel for this layout, for so few positions that turning would cost more. Then
         mean / deviation is looked at; where it is large anywhere, the turned way is taken instead.

Axes: N clips, C channels, G groups, D = C / G channels of a group, P positions (T * H * W).
"""

from __future__ import annotations

import math
from typing import Any

import torch

# Positions, and mean / deviation, up to which the direct way keeps the digits of float32.
_MOST_POSITIONS = 128
_LARGEST_RATIO = 1.0

# Up to so many clips and groups Python looks at them faster than torch.
_FEW_GROUPS = 16


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
    if (
        x.dtype in (torch.float32, torch.float64)
        and x.numel() <= _MOST_POSITIONS * x.shape[0] * x.shape[1]
        and type(x) is torch.Tensor
    ):
        y, mean_NG, rstd_NG = _run_kernel(x, num_groups, weight, bias, eps)
        if _is_exact(mean_NG, rstd_NG):
            return y
    turned: Any = _Turn.apply(x)
    y, _, _ = _run_kernel(turned, num_groups, weight, bias, eps)
    memory_format = _find_format(x)
    if memory_format == torch.contiguous_format:
        return y
    return _TurnBack.apply(y, memory_format)  # pyright: ignore[reportReturnType] (torch types apply as Any | None)


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
        return _make_contiguous(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        dx = grad_outputs[0].contiguous()
        return dx if ctx.format == torch.contiguous_format else _TurnBack.apply(dx, ctx.format)


class _TurnBack(torch.autograd.Function):
    """Contiguous x in the given layout, whose gradient is contiguous again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, memory_format: torch.memory_format) -> torch.Tensor:
        if x.dtype != torch.float32 or type(x) is not torch.Tensor:
            return x.contiguous(memory_format=memory_format)
        strides = torch.empty_like(x, device="meta", memory_format=memory_format).stride()
        rows = torch.native_channel_shuffle(_flatten(x), x.shape[1])
        # In place: of a view, what follows could not be done in place.
        return rows.as_strided_(x.shape, strides)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return _Turn.apply(grad_outputs[0]), None


def _make_contiguous(x: torch.Tensor) -> torch.Tensor:
    """Returns a contiguous copy of x (N, C, *).

    torch copies such a turned tensor element by element. Shuffling channels turns blocks of them,
    several times as fast: the P * C values of a clip as P groups of C channels.
    """
    is_dense = x.dtype == torch.float32 and x.is_contiguous(memory_format=_find_format(x))
    if not is_dense or x.is_contiguous() or type(x) is not torch.Tensor:
        return x.contiguous()
    num_positions = math.prod(x.shape[2:])
    return torch.native_channel_shuffle(_flatten(x), num_positions).as_strided_(
        x.shape, torch.empty_like(x, device="meta", memory_format=torch.contiguous_format).stride()
    )


def _flatten(x: torch.Tensor) -> torch.Tensor:
    """Returns dense x (N, *) as (N, L, 1, 1), in the order in which it lies in memory."""
    length = x.numel() // x.shape[0]
    return x.as_strided((x.shape[0], length, 1, 1), (length, 1, length, length))
