"""One forward and backward pass of a normalization, and whether what it computes is right.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from gnvideo.commands.norm_layers import NormLayer
from gnvideo.ops.activation import Activation
from gnvideo.ops.batch_norm import batch_norm_act
from gnvideo.ops.group_norm import group_norm_act

Family = Literal["group", "batch"]
"""Whose statistics: of each clip over groups, or of each channel over the batch."""

EPS = 1e-5

# Where the value before ReLU is this near to 0, its deviation being about 1, roundings decide on
# which side it lies. There the upstream gradient is 0, so that both sides are right. bfloat16
# rounds a normalized value, at most about 8, by at most 2^-6.
_UNDECIDED = 2.0**-5


class NormInputs(NamedTuple):
    """What all contestants are given for one layer.

    Attributes:
        layer: Which.
        x: (N, C, T, H, W) with a mean that is not 0.
        weight: (C,) float32, exact in bfloat16 too.
        bias: (C,) likewise.
        residual: x's shape and dtype; None where nothing is added.
        dy: Random upstream gradient of x's shape and dtype.
    """

    layer: NormLayer
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor | None
    dy: torch.Tensor

    @property
    def activation(self) -> Activation:
        """What follows."""
        return None if self.layer.kind == "plain" else "relu"


class Exact(NamedTuple):
    """What a contestant is held to.

    Attributes:
        dy: The upstream gradient, 0 where roundings decide on the slope.
        values: y and the gradients by name, in float64.
        scales: For each the size that its roundings have, which is that of its largest value. For
            dx it is that of the largest upstream gradient on its way to x: where few elements share
            statistics, dx is little of what is left of it.
    """

    dy: torch.Tensor
    values: Mapping[str, torch.Tensor]
    scales: Mapping[str, float]


class Tolerance(NamedTuple):
    """Largest error allowed, relative to the scale of the exact result.

    Attributes:
        values: Of y, dx and dresidual.
        parameters: Of dweight and dbias, as a function of the number of products in each.
    """

    values: float
    parameters: Callable[[int], float]


class Leaves(NamedTuple):
    """A contestant's own tensors, all of which get gradients.

    Attributes:
        x: Of the inputs, as are the others.
        weight: In the contestant's dtype.
        bias: In the contestant's dtype.
        residual: None where nothing is added.
    """

    x: torch.Tensor
    weight: nn.Parameter
    bias: nn.Parameter
    residual: torch.Tensor | None


@dataclass(slots=True)
class NormStep:
    """A forward and a backward pass that can be repeated.

    Attributes:
        run_forward: Returns y of the leaves, with its graph.
        leaves: Those that there are.
        dy: The upstream gradient, in y's dtype.
    """

    run_forward: Callable[[], torch.Tensor]
    leaves: tuple[torch.Tensor, ...]
    dy: torch.Tensor

    def run_backward(self, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the gradients of the leaves, and frees y's graph."""
        return torch.autograd.grad(y, self.leaves, self.dy)


def make_inputs(
    layer: NormLayer, num_clips: int, dtype: torch.dtype, device: str, seed: int = 0
) -> NormInputs:
    """Returns random inputs of a layer, the same for a seed."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (num_clips, layer.num_channels, *layer.size)

    def draw(memory_format: torch.memory_format) -> torch.Tensor:
        values = torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
        return values.normal_(generator=generator)

    def draw_parameter() -> torch.Tensor:
        values = torch.randn(layer.num_channels, device=device, generator=generator)
        return values.bfloat16().float()

    x = draw(layer.memory_format).mul_(1.7).add_(0.3)
    residual = None if layer.residual_format is None else draw(layer.residual_format)
    return NormInputs(
        layer, x, draw_parameter(), draw_parameter(), residual, draw(layer.memory_format)
    )


def take_leaves(
    inputs: NormInputs,
    parameter_dtype: torch.dtype = torch.float32,
    residual_dtype: torch.dtype | None = None,
) -> Leaves:
    """Returns leaves of the inputs; None leaves the residual in its dtype."""
    residual = inputs.residual
    if residual is not None:
        residual = residual.detach().to(residual_dtype or residual.dtype).requires_grad_()
    return Leaves(
        inputs.x.detach().requires_grad_(),
        nn.Parameter(inputs.weight.to(parameter_dtype, copy=True)),
        nn.Parameter(inputs.bias.to(parameter_dtype, copy=True)),
        residual,
    )


def compute_exact(inputs: NormInputs, family: Family) -> Exact:
    """Returns what the reference computes in float64."""
    leaves = tuple(
        tensor.detach().double().requires_grad_()
        for tensor in (inputs.x, inputs.weight, inputs.bias, inputs.residual)
        if tensor is not None
    )

    def normalize(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if family == "group":
            groups = inputs.layer.num_groups
            return group_norm_act(
                x, groups, weight, bias, EPS, residual, implementation="reference"
            )
        return batch_norm_act(
            *(x, None, None, weight, bias),
            training=True,
            eps=EPS,
            residual=residual,
            implementation="reference",
        )

    z = normalize(*leaves)
    dy = inputs.dy
    if inputs.activation is None:
        y = z
    else:
        y = torch.relu(z)
        dy = dy.masked_fill(z.detach().abs() < _UNDECIDED, 0)
    gradients = torch.autograd.grad(y, leaves, dy.double())
    names = ("y", "dx", "dweight", "dbias", "dresidual")
    values: dict[str, torch.Tensor] = dict(zip(names, (y.detach(), *gradients), strict=False))
    scales = {name: max(value.abs().max().item(), 1e-3) for name, value in values.items()}
    scales["dx"] = max(scales["dx"], _find_largest_direct_gradient(inputs, dy, family))
    return Exact(dy, values, scales)


def _find_largest_direct_gradient(inputs: NormInputs, dy: torch.Tensor, family: Family) -> float:
    """Returns the largest |dy * weight / sqrt(var + eps)|."""
    x = inputs.x.double()
    if family == "group":
        x_NGK = x.reshape(x.shape[0], inputs.layer.num_groups, -1)
        var_NG = x_NGK.var(2, correction=0)
        var_NC = var_NG.repeat_interleave(x.shape[1] // inputs.layer.num_groups, dim=1)
    else:
        var_NC = x.var((0, 2, 3, 4), correction=0)[None]
    slope_NC = inputs.weight.abs() / (var_NC + EPS).sqrt()
    return (dy.abs().amax((2, 3, 4)) * slope_NC).max().item()


def measure_errors(step: NormStep, exact: Exact) -> dict[str, float]:
    """Returns the largest error of y and each gradient, relative to its scale.

    It sets the step's upstream gradient to that of `exact`, in the dtype of the step's y.
    """
    y = step.run_forward()
    # In y's layout, as the convolution behind it would give it.
    step.dy = torch.empty_like(y).copy_(exact.dy)
    actual = (y.detach(), *step.run_backward(y))
    return {
        name: _compute_largest_error(value, exact.values[name]) / exact.scales[name]
        for name, value in zip(exact.values, actual, strict=True)
    }


def find_complaint(
    errors: Mapping[str, float], tolerance: Tolerance, num_products: int
) -> str | None:
    """Returns which results are too far from exact ones, and how far; None if none is.

    Args:
        errors: Of `measure_errors`.
        tolerance: What is allowed.
        num_products: N * T * H * W.
    """
    complaints: list[str] = []
    for name, error in errors.items():
        is_parameter = name in ("dweight", "dbias")
        allowed = tolerance.parameters(num_products) if is_parameter else tolerance.values
        # An error that is no number is no small one.
        if not error <= allowed:
            complaints.append(f"{name} by {error:.1e} where {allowed:.1e} is allowed")
    return ", ".join(complaints) or None


def grow_with_root(unit: float) -> Callable[[int], float]:
    """Returns the tolerance of float32 sums: the error grows with the root of their length."""
    return lambda num_products: unit * math.sqrt(num_products)


def stay_at(error: float) -> Callable[[int], float]:
    """Returns the tolerance of sums that are rounded to few digits, however long they are."""
    return lambda num_products: error


def _compute_largest_error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    if actual.shape != exact.shape:
        return math.inf
    return (actual.double() - exact).abs().max().item()
