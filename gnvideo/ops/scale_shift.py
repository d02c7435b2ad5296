"""A scale and a shift for each channel of each clip, with and without a gate.

Both keep nothing but x for the backward pass, whatever made the scale and the shift.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch

from gnvideo.ops.recomputation import offer_recomputation

_POSITIONS = (2, 3, 4)


def scale_and_shift(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Returns x * scale + shift, in x's dtype and layout.

    Half precision is computed in float32 and rounded once; `torch.autocast` changes nothing.

    Shape:
        x             (N, C, T, H, W), any floating point dtype; any strides
        scale, shift  (N, C), or (1, C) for all clips; x's dtype or a wider one
    """
    y: Any = _ScaleAndShift.apply(x, scale, shift)
    offer_recomputation(y, scale_and_shift, x, scale, shift)
    return y


def gate_scale_and_shift(
    x: torch.Tensor, slope: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Returns x * sigmoid(slope * x) * scale + shift, in x's dtype and layout.

    As `scale_and_shift`; the gate is computed again in the backward pass.

    Shape:
        slope  (C,), x's dtype or a wider one
    """
    y: Any = _GateScaleAndShift.apply(x, slope, scale, shift)
    offer_recomputation(y, gate_scale_and_shift, x, slope, scale, shift)
    return y


class _ScaleAndShift(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, scale, shift)
        return torch.addcmul(_spread(shift, x), x, _spread(scale, x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = grad_outputs
        x, scale, shift = ctx.saved_tensors
        dx = dscale = dshift = None
        if ctx.needs_input_grad[0]:
            dx = (dy * _spread(scale, x)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            dscale = _sum_to(_lift(dy) * x, scale)
        if ctx.needs_input_grad[2]:
            dshift = _sum_to(_lift(dy), shift)
        return dx, dscale, dshift


class _GateScaleAndShift(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        slope: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, slope, scale, shift)
        gated = (x * _spread(slope[None], x)).sigmoid_().mul_(x)
        return torch.addcmul(_spread(shift, x), gated, _spread(scale, x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = grad_outputs
        x, slope, scale, shift = ctx.saved_tensors
        lifted_x, dy = _lift(x), _lift(dy)
        product = lifted_x * _spread(slope[None], x)
        gate = product.sigmoid()
        dgated = dy * _spread(scale, x)
        # The gate's derivative is gate * (1 - gate).
        gate_slope = gate * (1 - gate)
        dx = (dgated * (gate + product * gate_slope)).to(x.dtype)
        dslope = (dgated * gate_slope * lifted_x.square()).sum((0, *_POSITIONS)).to(slope.dtype)
        return dx, dslope, _sum_to(dy * gate * lifted_x, scale), _sum_to(dy, shift)


def _lift(x: torch.Tensor) -> torch.Tensor:
    """Returns x in the dtype that is computed in: float32 for half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _spread(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Returns values (N, C) as (N, C, 1, 1, 1), in the dtype that x is computed in."""
    return values.to(torch.promote_types(x.dtype, torch.float32))[..., None, None, None]


def _sum_to(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Returns values (N, C, T, H, W) summed to the parameter's (N, C) or (1, C), in its dtype."""
    return values.sum(_POSITIONS).sum_to_size(parameter.shape).to(parameter.dtype)
