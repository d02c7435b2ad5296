"""The derivatives of the operators: what is kept for the backward pass, and what runs in it.

Axes: N clips, C channels, G groups.
"""

from __future__ import annotations

from typing import Any

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.triton_norm.differentiable import differentiate
from gnvideo.ops.triton_norm.layout import find_layout
from gnvideo.ops.triton_norm.operators import library
from gnvideo.ops.triton_norm.sets import Variant, Wanted

_Statistics = tuple[torch.Tensor, torch.Tensor]
operators = torch.ops.gnvideo


class _NormAct(torch.autograd.Function):
    """All three operators: what they keep for the backward pass, and their gradients.

    Kept are x and the statistics, and with a residual what tells the activation's slope: y, which
    what follows keeps anyway, for ReLU, and the residual for SiLU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        statistics: _Statistics | None,
        num_groups: int | None,
        eps: float,
        activation: Activation,
        variant: Variant,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, mean, var = _run_below_autograd(
            x, weight, bias, residual, statistics, num_groups, eps, activation, variant
        )
        saved = None
        if residual is not None and activation is not None:
            saved = y if activation == "relu" else residual
        ctx.save_for_backward(x, mean, var, weight, bias, saved)
        ctx.eps = eps
        ctx.activation = activation
        ctx.variant = variant
        ctx.are_constants = statistics is not None
        ctx.set_materialize_grads(False)
        if statistics is not None:
            return y
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dy = grad_outputs[0]
        x, mean, var, weight, bias, saved = ctx.saved_tensors
        rest = (ctx.eps, ctx.activation, ctx.are_constants)
        wanted = Wanted(*ctx.needs_input_grad[:4])
        nothing = (None,) * 5
        if wanted.residual and ctx.activation is None:
            dresidual = dy
            wanted = wanted._replace(residual=False)
        else:
            dresidual = None
        if not any(wanted):
            return (None, None, None, dresidual, *nothing)
        inputs = (x, mean, var, weight, bias, saved)
        # Autograd records the backward pass only for those who differentiate it.
        if torch.is_grad_enabled():
            gradients = differentiate(dy, *inputs, *rest, wanted)
        else:
            if find_layout(dy) != find_layout(x):
                dy = torch.empty_like(x).copy_(dy)
            computed = operators.normalize_act_backward(
                dy, *inputs, *rest, list(wanted), ctx.variant
            )
            gradients = [
                gradient if is_wanted else None
                for gradient, is_wanted in zip(computed, wanted, strict=True)
            ]
        if dresidual is None:
            dresidual = gradients[3]
        return (*gradients[:3], dresidual, *nothing)


def _run_below_autograd(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    statistics: _Statistics | None,
    num_groups: int | None,
    eps: float,
    activation: Activation,
    variant: Variant,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns y and the statistics; those of all clips where there is no num_groups."""
    inputs = (weight, bias, residual)
    with torch._C._AutoDispatchBelowAutograd():  # pyright: ignore[reportPrivateUsage] (as torch.library)
        if statistics is not None:
            return operators.normalize_act(x, *statistics, *inputs, eps, activation), *statistics
        if num_groups is None:
            return operators.batch_norm_act(x, *inputs, eps, activation, variant)
        return operators.group_norm_act(x, *inputs, num_groups, eps, activation, variant)


def _run_and_record(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    statistics: _Statistics | None,
    num_groups: int | None,
    eps: float,
    activation: Activation,
    variant: Variant,
) -> Any:
    arguments = (x, weight, bias, residual, statistics, num_groups, eps, activation, variant)
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        return _NormAct.apply(*arguments)
    y, mean, var = _run_below_autograd(*arguments)
    return (y, mean, var) if statistics is None else y


def _record_group_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    num_groups: int,
    eps: float,
    activation: Activation,
    variant: Variant = "two-read",
) -> Any:
    return _run_and_record(x, weight, bias, residual, None, num_groups, eps, activation, variant)


def _record_batch_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    activation: Activation,
    variant: Variant = "two-read",
) -> Any:
    return _run_and_record(x, weight, bias, residual, None, None, eps, activation, variant)


def _record_normalize_act(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    activation: Activation,
) -> Any:
    return _run_and_record(
        x, weight, bias, residual, (mean, var), None, eps, activation, "two-read"
    )


library.impl("group_norm_act", _record_group_norm_act, "Autograd")
library.impl("batch_norm_act", _record_batch_norm_act, "Autograd")
library.impl("normalize_act", _record_normalize_act, "Autograd")
