"""Group normalization on a CPU, exact in either layout.

For contiguous tensors torch's kernel is exact, and fast. Its kernel for tensors whose channels lie
innermost takes the variance as E[x^2] - E[x]^2, of plain float32 sums: nothing is left of it at
mean / deviation = 1000, and long sums lose digits with any mean. Where groups have few channels it
is several times slower, too. So there are three ways:

direct   The kernel for this layout, for so few values that another way would cost more. Then
         mean / deviation is looked at; where it is large anywhere, the turned way is taken instead.
turned   The kernel for contiguous tensors, on copies that are turned there and back.
rows     Long clips of many channels, of which turning costs more than the kernel: see `rows.py`.

In the last two a clip's result does not depend on the others.

Axes: N clips, C channels, G groups, P positions (T * H * W), L = C * P values of a clip.
"""

from __future__ import annotations

from typing import Any

import torch

from gnvideo.ops.activation import Activation, activate_, add_and_activate_
from gnvideo.ops.differentiation import compute_differentiable_gradients
from gnvideo.ops.group_norm.reference import group_norm_act_reference
from gnvideo.ops.group_norm.rows import differentiate_rows, normalize_rows

# The direct way is faster where groups have many channels, or a clip has few rows: a group's values
# at one position. How many clips there are is not asked, or the bits of each would depend on that.
_WIDE_GROUP = 8
_FEW_ROWS = 2048
# Up to so many positions and such a mean / deviation it keeps the digits of float32.
_MOST_POSITIONS = 64
_LARGEST_RATIO = 1.0
# Groups of all clips that Python looks at faster than torch.
_FEW_GROUPS = 16
# From so many channels and values of a clip on, rows are faster than turning.
_MANY_CHANNELS = 64
_MANY_VALUES = 2**17

# In half precision mean and deviation come rounded, and sums would be.
_EXACT_DTYPES = (torch.float32, torch.float64)

_run_kernel = torch.native_group_norm
_run_backward_kernel = torch.ops.aten.native_group_norm_backward.default
_gate = torch.ops.aten.threshold_backward.default

# N, C, P, G, as torch's kernels want them.
_Sizes = tuple[int, int, int, int]


def group_norm_act_on_cpu(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None,
    activation: Activation,
) -> torch.Tensor:
    """Returns `group_norm_act` of x on a CPU, in x's layout if its channels are innermost.

    weight and bias have a dtype that torch's kernel takes beside x.
    """
    if x.is_contiguous():
        y = torch.group_norm(x, num_groups, weight, bias, eps)
        return add_and_activate_(y, residual, activation)
    layout = _find_layout(x)
    # What stands for a tensor of values, as while a model is exported, has none to look at, and a
    # compiler sees through what is written plainly.
    is_seen_through = (
        type(x) is not torch.Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing()
    )
    if layout == torch.contiguous_format or is_seen_through:
        y = torch.group_norm(x.contiguous(), num_groups, weight, bias, eps)
        return add_and_activate_(y.contiguous(memory_format=layout), residual, activation)
    shape = x.shape
    num_clips, num_channels = shape[0], shape[1]
    num_positions = x.numel() // (num_clips * num_channels)
    # Written out: it is felt where a normalization takes ten microseconds.
    if (
        num_positions <= _MOST_POSITIONS
        and (num_groups * num_positions <= _FEW_ROWS or num_channels >= _WIDE_GROUP * num_groups)
        and x.dtype in _EXACT_DTYPES
    ):
        y, mean_NG, rstd_NG = _run_kernel(
            x, weight, bias, num_clips, num_channels, num_positions, num_groups, eps
        )
        if _is_exact(mean_NG, rstd_NG):
            return add_and_activate_(y, residual, activation)
    x = x.contiguous(memory_format=layout)
    sizes = num_clips, num_channels, num_positions, num_groups
    is_gated = activation == "relu"
    y: Any = _GroupNormAct.apply(x, weight, bias, residual, sizes, eps, is_gated)
    return y if is_gated else activate_(y, activation)


def _find_layout(x: torch.Tensor) -> torch.memory_format:
    """Returns x's layout; strides that fit none count as contiguous."""
    if x.stride(1) == 1 and x.ndim == 5:
        return torch.channels_last_3d
    if x.stride(1) == 1 and x.ndim == 4:
        return torch.channels_last
    return torch.contiguous_format


def _is_exact(mean_NG: torch.Tensor, rstd_NG: torch.Tensor) -> bool:
    """Returns whether mean / deviation is small in all groups."""
    if mean_NG.numel() > _FEW_GROUPS:
        # Detached, or autograd would follow.
        ratio_NG = mean_NG.detach() * rstd_NG.detach()
        return ratio_NG.abs_().max().item() <= _LARGEST_RATIO
    rstds_NG = rstd_NG.tolist()
    for clip, means in enumerate(mean_NG.tolist()):
        rstd = max(rstds_NG[clip])
        # So put that it is not where Python's max gives NaN, which hides what else there is.
        if not (max(means) * rstd <= _LARGEST_RATIO and min(means) * rstd >= -_LARGEST_RATIO):
            return False
    return True


class _GroupNormAct(torch.autograd.Function):
    """All in one function: to autograd it is as much work as one of its operators."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        sizes: _Sizes,
        eps: float,
        is_gated: bool,
    ) -> torch.Tensor:
        if _is_long(x, sizes):
            y, mean_NG, rstd_NG = normalize_rows(x, sizes[-1], weight, bias, eps)
        else:
            y_NCP, mean_NG, rstd_NG = _run_kernel(_turn(x, sizes), weight, bias, *sizes, eps)
            y = _turn_back(y_NCP, sizes, x)
        add_and_activate_(y, residual, "relu" if is_gated else None)
        ctx.save_for_backward(x, weight, bias, mean_NG, rstd_NG, y if is_gated else None)
        ctx.settings = sizes, eps
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dz,) = grad_outputs
        x, weight, bias, mean_NG, rstd_NG, y = ctx.saved_tensors
        sizes, eps = ctx.settings
        needs_x, needs_weight, needs_bias, needs_residual, *_ = ctx.needs_input_grad
        if y is not None:
            dz = _gate(dz, y, 0)
        dresidual = dz if needs_residual else None
        if torch.is_grad_enabled():
            y = group_norm_act_reference(x, sizes[-1], weight, bias, eps, None, None)
            needed = (needs_x, needs_weight, needs_bias)
            gradients = compute_differentiable_gradients(y, (x, weight, bias), needed, dz)
            return *gradients, dresidual, None, None, None
        dz = dz.contiguous(memory_format=_find_layout(x))
        if _is_long(x, sizes):
            dx, dweight, dbias = differentiate_rows(dz, x, weight, mean_NG, rstd_NG)
            return (
                dx if needs_x else None,
                dweight if needs_weight else None,
                dbias if needs_bias else None,
                *(dresidual, None, None, None),
            )
        dx_NCP, dweight, dbias = _run_backward_kernel(
            _turn(dz, sizes),
            _turn(x, sizes),
            mean_NG,
            rstd_NG,
            weight,
            *sizes,
            (needs_x, needs_weight, needs_bias),
        )
        dx = _turn_back(dx_NCP, sizes, x) if needs_x else None
        return dx, dweight, dbias, dresidual, None, None, None


def _is_long(x: torch.Tensor, sizes: _Sizes) -> bool:
    _, num_channels, num_positions, _ = sizes
    return (
        num_channels >= _MANY_CHANNELS
        and num_channels * num_positions >= _MANY_VALUES
        and x.dtype in _EXACT_DTYPES
    )


def _turn(x: torch.Tensor, sizes: _Sizes) -> torch.Tensor:
    """Returns a contiguous copy (N, C, P) of x, which is dense with its channels innermost.

    torch copies such a turned tensor element by element. Shuffling channels turns blocks of them,
    several times as fast: the L values of a clip as P groups of C channels.
    """
    num_clips, num_channels, num_positions, _ = sizes
    length = num_channels * num_positions
    flat_NL11 = x.as_strided((num_clips, length, 1, 1), (length, 1, length, length))
    return torch.native_channel_shuffle(flat_NL11, num_positions).as_strided_(
        (num_clips, num_channels, num_positions), (length, num_positions, 1)
    )


def _turn_back(x_NCP: torch.Tensor, sizes: _Sizes, like: torch.Tensor) -> torch.Tensor:
    """Returns a copy of contiguous x_NCP in the shape and layout of `like`."""
    num_clips, num_channels, num_positions, _ = sizes
    length = num_channels * num_positions
    flat_NL11 = x_NCP.as_strided((num_clips, length, 1, 1), (length, 1, length, length))
    # In place: of a view, what follows could not be done in place.
    return torch.native_channel_shuffle(flat_NL11, num_channels).as_strided_(
        like.shape, like.stride()
    )
