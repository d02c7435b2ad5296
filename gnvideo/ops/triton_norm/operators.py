"""The kernels as operators of `torch.library`. Their derivatives are in `derivatives.py`.

    gnvideo::group_norm_act          y, mean (N, G) and variance (N, G)
    gnvideo::batch_norm_act          y, mean (C,) and variance (C,)
    gnvideo::normalize_act           y of given statistics, (N, G) or (C,)
    gnvideo::normalize_act_backward  the gradients of all three

They are defined and given shapes without Triton, which is imported when one first computes.

Axes: N clips, C channels, G groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.triton_norm.sets import (
    NOT_TRACKED,
    Running,
    Sets,
    Variant,
    Wanted,
    find_sets,
)

library = torch.library.Library("gnvideo", "FRAGMENT")
_INPUTS = "Tensor? weight, Tensor? bias, Tensor? residual"
_REST = "float eps, str? activation"
_VARIANT = 'str variant="two-read"'
library.define(
    f"group_norm_act(Tensor x, {_INPUTS}, int num_groups, {_REST}, {_VARIANT})"
    " -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
library.define(
    "batch_norm_act(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum, "
    f"{_INPUTS}, {_REST}, {_VARIANT}) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
library.define(
    f"normalize_act(Tensor x, Tensor mean, Tensor var, {_INPUTS}, {_REST}) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
library.define(
    "normalize_act_backward(Tensor dy, Tensor x, Tensor mean, Tensor var, "
    f"Tensor? weight, Tensor? bias, Tensor? saved, {_REST}, bool are_constants, bool[4] wanted, "
    f"{_VARIANT}) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _compute_group_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    num_groups: int,
    eps: float,
    activation: Activation,
    variant: Variant = "two-read",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sets = Sets(num_groups, joins_clips=False)
    inputs = (x, weight, bias, residual)
    return _compute_forward(*inputs, sets, NOT_TRACKED, eps, activation, variant)


def _compute_batch_norm_act(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sets = Sets(x.shape[1], joins_clips=True)
    running = Running(running_mean, running_var, momentum)
    inputs = (x, weight, bias, residual)
    return _compute_forward(*inputs, sets, running, eps, activation, variant)


def _compute_forward(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    sets: Sets,
    running: Running,
    eps: float,
    activation: Activation,
    variant: Variant,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if variant == "one-read":
        from gnvideo.ops.triton_norm.one_read_launches import normalize_at_once

        return normalize_at_once(x, weight, bias, eps, residual, activation, sets, running)
    from gnvideo.ops.triton_norm.launches import compute_statistics, normalize

    mean, var = compute_statistics(x, sets, running)
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
    variant: Variant = "two-read",
) -> tuple[torch.Tensor, ...]:
    tensors = (dy, x, mean, var, weight, bias, eps, saved)
    rest = (activation, find_sets(mean), Wanted(*wanted))
    # Without the two means there is nothing for which all clips would be waited for.
    if variant == "one-read" and wanted[0] and not are_constants:
        from gnvideo.ops.triton_norm.one_read_launches import compute_gradients_at_once

        gradients = compute_gradients_at_once(*tensors, *rest)
    else:
        from gnvideo.ops.triton_norm.launches import compute_gradients

        gradients = compute_gradients(*tensors, *rest, are_constants=are_constants)
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
    variant: Variant = "two-read",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    statistics = x.new_empty((x.shape[0], num_groups), dtype=torch.float32)
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


def _shape_batch_norm_act(
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
    variant: Variant = "two-read",
) -> tuple[torch.Tensor, ...]:
    sources = (x, weight, bias, x)
    return tuple(
        torch.empty_like(source) if source is not None and is_wanted else x.new_empty(0)
        for source, is_wanted in zip(sources, wanted, strict=True)
    )


def _run_on_its_device(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `compute` on the GPU of its first tensor: Triton launches on the current one."""

    @functools.wraps(compute)
    def run(tensor: torch.Tensor, *rest: Any) -> Any:
        if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
            with torch.cuda.device(tensor.device):
                return compute(tensor, *rest)
        return compute(tensor, *rest)

    return run


for _name, _compute, _shape in (
    ("group_norm_act", _compute_group_norm_act, _shape_group_norm_act),
    ("batch_norm_act", _compute_batch_norm_act, _shape_batch_norm_act),
    ("normalize_act", _compute_normalize_act, _shape_normalize_act),
    ("normalize_act_backward", _compute_backward, _shape_backward),
):
    library.impl(_name, _run_on_its_device(_compute), "CompositeExplicitAutograd")
    torch.library.register_fake(f"gnvideo::{_name}", _shape, lib=library)
