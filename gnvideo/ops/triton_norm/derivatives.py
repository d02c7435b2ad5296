"""The derivatives of the operators: what is kept for the backward pass, and what runs in it.

Axes: N clips, C channels, G groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.triton_norm.differentiable import differentiate
from gnvideo.ops.triton_norm.layout import find_layout
from gnvideo.ops.triton_norm.operators import library
from gnvideo.ops.triton_norm.sets import Variant, Wanted

operators = torch.ops.gnvideo


class _Call(NamedTuple):
    """One call of an operator: how to run it, and what its gradients depend on.

    `statistics` are those that are given, and constants for the gradients.
    """

    run: Callable[[], Any] | None
    eps: float
    activation: Activation
    variant: Variant
    statistics: tuple[torch.Tensor, torch.Tensor] | None = None


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
        call: _Call,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, mean, var = _run_below_autograd(call)
        saved = None
        if residual is not None and call.activation is not None:
            saved = y if call.activation == "relu" else residual
        ctx.save_for_backward(x, mean, var, weight, bias, saved)
        ctx.call = call._replace(run=None)
        ctx.set_materialize_grads(False)
        if call.statistics is not None:
            return y
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dy = grad_outputs[0]
        x, mean, var, weight, bias, saved = ctx.saved_tensors
        call: _Call = ctx.call
        rest = (call.eps, call.activation, call.statistics is not None)
        wanted = Wanted(*ctx.needs_input_grad[:4])
        if wanted.residual and call.activation is None:
            dresidual = dy
            wanted = wanted._replace(residual=False)
        else:
            dresidual = None
        if not any(wanted):
            return (None, None, None, dresidual, None)
        inputs = (x, mean, var, weight, bias, saved)
        # Autograd records the backward pass only for those who differentiate it.
        if torch.is_grad_enabled():
            gradients = differentiate(dy, *inputs, *rest, wanted)
        else:
            if find_layout(dy) != find_layout(x):
                dy = torch.empty_like(x).copy_(dy)
            computed = operators.normalize_act_backward(
                dy, *inputs, *rest, list(wanted), call.variant
            )
            gradients = [
                gradient if is_wanted else None
                for gradient, is_wanted in zip(computed, wanted, strict=True)
            ]
        if dresidual is None:
            dresidual = gradients[3]
        return (*gradients[:3], dresidual, None)


def _run_below_autograd(call: _Call) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns y and the statistics."""
    assert call.run is not None
    with torch._C._AutoDispatchBelowAutograd():  # pyright: ignore[reportPrivateUsage] (as torch.library)
        if call.statistics is not None:
            return call.run(), *call.statistics
        return call.run()


def _run_and_record(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    call: _Call,
) -> Any:
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        return _NormAct.apply(x, weight, bias, residual, call)
    y, mean, var = _run_below_autograd(call)
    return (y, mean, var) if call.statistics is None else y


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
    inputs = (weight, bias, residual)

    def run() -> Any:
        return operators.group_norm_act(x, *inputs, num_groups, eps, activation, variant)

    return _run_and_record(x, *inputs, _Call(run, eps, activation, variant))


def _record_batch_norm_act(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    activation: Activation,
    variant: Variant = "two-read",
) -> Any:
    inputs = (weight, bias, residual)
    running = (running_mean, running_var)

    def run() -> Any:
        return operators.batch_norm_act(x, *running, momentum, *inputs, eps, activation, variant)

    # Below autograd nobody tells it that the kernels write into these.
    torch.autograd.graph.increment_version([t for t in running if t is not None])
    return _run_and_record(x, *inputs, _Call(run, eps, activation, variant))


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
    inputs = (weight, bias, residual)

    def run() -> Any:
        return operators.normalize_act(x, mean, var, *inputs, eps, activation)

    call = _Call(run, eps, activation, "two-read", statistics=(mean, var))
    return _run_and_record(x, *inputs, call)


library.impl("group_norm_act", _record_group_norm_act, "Autograd")
library.impl("batch_norm_act", _record_batch_norm_act, "Autograd")
library.impl("normalize_act", _record_normalize_act, "Autograd")
