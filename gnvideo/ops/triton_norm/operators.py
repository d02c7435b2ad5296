"""The kernels as operators of `torch.library`, with their derivatives.

    gnvideo::group_norm_act          y, mean (N, G) and variance (N, G)
    gnvideo::batch_norm_act          y, mean (C,) and variance (C,)
    gnvideo::normalize_act           y of given statistics, (N, G) or (C,)
    gnvideo::normalize_act_backward  the gradients of all three

They are defined and given shapes without Triton, which is imported when one first computes.

Axes: N clips, C channels, G groups.
"""

from __future__ import annotations

from typing import Any

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.triton_norm.differentiable import differentiate
from gnvideo.ops.triton_norm.layout import find_layout
from gnvideo.ops.triton_norm.sets import Sets, Wanted, find_sets

_Statistics = tuple[torch.Tensor, torch.Tensor]

_library = torch.library.Library("gnvideo", "FRAGMENT")
_INPUTS = "Tensor? weight, Tensor? bias, Tensor? residual"
_REST = "float eps, str? activation"
_library.define(
    f"group_norm_act(Tensor x, {_INPUTS}, int num_groups, {_REST}) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    f"batch_norm_act(Tensor x, {_INPUTS}, {_REST}) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    f"normalize_act(Tensor x, Tensor mean, Tensor var, {_INPUTS}, {_REST}) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    "normalize_act_backward(Tensor dy, Tensor x, Tensor mean, Tensor var, "
    f"Tensor? weight, Tensor? bias, Tensor? saved, {_REST}, bool are_constants, bool[4] wanted) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
_operators = torch.ops.gnvideo


def _compute_group_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    num_groups: int,
    eps: float,
    activation: Activation,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from gnvideo.ops.triton_norm.launches import compute_statistics, normalize

    sets = Sets(num_groups, joins_clips=False)
    mean, var = compute_statistics(x, sets)
    y = normalize(x, mean, var, weight, bias, eps, residual, activation, sets)
    return y, mean, var


def _compute_batch_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    activation: Activation,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from gnvideo.ops.triton_norm.launches import compute_statistics, normalize

    sets = Sets(x.shape[1], joins_clips=True)
    mean, var = compute_statistics(x, sets)
    y = normalize(x, mean, var, weight, bias, eps, residual, activation, sets)
    return y, mean, var


def _compute_normalize_act(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    activation: Activation,
) -> torch.Tensor:
    from gnvideo.ops.triton_norm.launches import normalize

    return normalize(x, mean, var, weight, bias, eps, residual, activation, find_sets(mean))


def _compute_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    saved: torch.Tensor | None,
    eps: float,
    activation: Activation,
    are_constants: bool,
    wanted: list[bool],
) -> tuple[torch.Tensor, ...]:
    from gnvideo.ops.triton_norm.launches import compute_gradients

    gradients = compute_gradients(
        dy,
        x,
        mean,
        var,
        weight,
        bias,
        eps,
        saved,
        activation,
        find_sets(mean),
        Wanted(*wanted),
        are_constants=are_constants,
    )
    # An operator cannot return None.
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _shape_group_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    num_groups: int,
    eps: float,
    activation: Activation,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    statistics = x.new_empty((x.shape[0], num_groups), dtype=torch.float32)
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


def _shape_batch_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    activation: Activation,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    statistics = x.new_empty(x.shape[1], dtype=torch.float32)
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


def _shape_normalize_act(x: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(x)


def _shape_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    saved: torch.Tensor | None,
    eps: float,
    activation: Activation,
    are_constants: bool,
    wanted: list[bool],
) -> tuple[torch.Tensor, ...]:
    sources = (x, weight, bias, x)
    return tuple(
        torch.empty_like(source) if source is not None and is_wanted else x.new_empty(0)
        for source, is_wanted in zip(sources, wanted, strict=True)
    )


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
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, mean, var = _run_below_autograd(
            x, weight, bias, residual, statistics, num_groups, eps, activation
        )
        saved = None
        if residual is not None and activation is not None:
            saved = y if activation == "relu" else residual
        ctx.save_for_backward(x, mean, var, weight, bias, saved)
        ctx.eps = eps
        ctx.activation = activation
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
        nothing = (None,) * 4
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
            computed = _operators.normalize_act_backward(dy, *inputs, *rest, list(wanted))
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns y and the statistics; those of all clips where there is no num_groups."""
    inputs = (weight, bias, residual)
    with torch._C._AutoDispatchBelowAutograd():  # pyright: ignore[reportPrivateUsage] (as torch.library)
        if statistics is not None:
            return _operators.normalize_act(x, *statistics, *inputs, eps, activation), *statistics
        if num_groups is None:
            return _operators.batch_norm_act(x, *inputs, eps, activation)
        return _operators.group_norm_act(x, *inputs, num_groups, eps, activation)


def _run_and_record(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    statistics: _Statistics | None,
    num_groups: int | None,
    eps: float,
    activation: Activation,
) -> Any:
    arguments = (x, weight, bias, residual, statistics, num_groups, eps, activation)
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
) -> Any:
    return _run_and_record(x, weight, bias, residual, None, num_groups, eps, activation)


def _record_batch_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    activation: Activation,
) -> Any:
    return _run_and_record(x, weight, bias, residual, None, None, eps, activation)


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
    return _run_and_record(x, weight, bias, residual, (mean, var), None, eps, activation)


for _name, _compute, _shape, _record in (
    (
        "group_norm_act",
        _compute_group_norm_act,
        _shape_group_norm_act,
        _record_group_norm_act,
    ),
    (
        "batch_norm_act",
        _compute_batch_norm_act,
        _shape_batch_norm_act,
        _record_batch_norm_act,
    ),
    (
        "normalize_act",
        _compute_normalize_act,
        _shape_normalize_act,
        _record_normalize_act,
    ),
    ("normalize_act_backward", _compute_backward, _shape_backward, None),
):
    _library.impl(_name, _compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"gnvideo::{_name}", _shape, lib=_library)
    if _record is not None:
        _library.impl(_name, _record, "Autograd")
