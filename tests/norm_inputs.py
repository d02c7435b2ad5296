"""Inputs of fused normalizations, their definition, and how far a result may be from it.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from clip_case import CHANNELS_LAST, Case
from torch.nn import functional

from gnvideo.ops.activation import Activation
from gnvideo.ops.batch_norm import batch_norm_act
from gnvideo.ops.group_norm import group_norm_act
from gnvideo.ops.triton_norm import Variant, batch_norm_act_triton, group_norm_act_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-5

# Largest error allowed, relative to the largest value of the exact result.
OUTPUT_TOLERANCE = {
    # 8 units in the last place: a handful of operations on each element.
    torch.float32: 8 * 2.0**-24,
    # Arithmetic in float32, so the last rounding is all there is; 1 % for what precedes it.
    torch.bfloat16: 1.01 * 2.0**-8,
    torch.float16: 1.01 * 2.0**-11,
}
ENDINGS = [
    ("relu", False),
    ("relu", True),
    ("silu", False),
    ("silu", True),
    (None, False),
    (None, True),
]
ENDING_IDS = [f"{activation}{'-residual' * has}" for activation, has in ENDINGS]


@dataclass
class Inputs:
    """What one call takes, and the gradient of what it returns."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor | None
    dy: torch.Tensor

    def list_leaves(self) -> list[torch.Tensor]:
        tensors = [self.x, self.weight, self.bias, self.residual]
        return [t for t in tensors if t is not None]

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        residual = None if self.residual is None else change(self.residual)
        return Inputs(
            change(self.x), change(self.weight), change(self.bias), residual, change(self.dy)
        )


def make_inputs(
    case: Case,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = CHANNELS_LAST,
    *,
    has_residual: bool = False,
    mean: float = 0.3,
    std: float = 1.7,
) -> Inputs:
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def place(values: torch.Tensor) -> torch.Tensor:
        return values.to(dtype).contiguous(memory_format=layout).to(DEVICE)

    return Inputs(
        place(draw(*case.shape) * std + mean),
        draw(case.C).float().to(DEVICE),
        draw(case.C).float().to(DEVICE),
        place(draw(*case.shape)) if has_residual else None,
        place(draw(*case.shape)),
    )


def compute_plainly(operator: str, inputs: Inputs, num_groups: int, activation) -> torch.Tensor:
    """The definition, of whatever dtype the inputs have."""
    x = inputs.x
    rows = x.reshape(len(x), num_groups, -1) if operator == "group" else x.movedim(1, 0).flatten(1)
    centered = rows - rows.mean(-1, keepdim=True)
    rows = centered / (centered.square().mean(-1, keepdim=True) + EPS).sqrt()
    if operator == "group":
        z = rows.reshape(x.shape)
    else:
        z = rows.unflatten(1, (len(x), *x.shape[2:])).movedim(0, 1)
    over_positions = (-1, *(1 for _ in x.shape[2:]))
    z = z * inputs.weight.reshape(over_positions) + inputs.bias.reshape(over_positions)
    if inputs.residual is not None:
        z = z + inputs.residual
    return {None: lambda z: z, "relu": torch.relu, "silu": functional.silu}[activation](z)


def relative_error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    scale = exact.abs().max().clamp(min=1e-3)
    return ((actual.double() - exact).abs().max() / scale).item()


def apply_triton(
    operator: str,
    inputs: Inputs,
    num_groups: int,
    activation: Activation,
    *,
    variant: Variant | None = None,
) -> torch.Tensor:
    """By Triton's kernels, through what picks the implementation if no variant is given."""
    given = (inputs.weight, inputs.bias)
    rest = (EPS, inputs.residual, activation)
    if operator == "group":
        if variant is None:
            return group_norm_act(inputs.x, num_groups, *given, *rest, "triton")
        return group_norm_act_triton(inputs.x, num_groups, *given, *rest, variant)
    if variant is None:
        return batch_norm_act(inputs.x, None, None, *given, True, 0.0, *rest, "triton")
    return batch_norm_act_triton(inputs.x, None, None, *given, True, 0.0, *rest, variant)


def run(function, operator, inputs: Inputs, num_groups, activation) -> dict[str, torch.Tensor]:
    inputs = inputs.map(lambda tensor: tensor.detach().requires_grad_())
    y = function(operator, inputs, num_groups, activation)
    gradients = torch.autograd.grad(y, inputs.list_leaves(), inputs.dy.detach())
    names = ("dx", "dweight", "dbias", "dresidual")
    return {"y": y.detach(), **dict(zip(names, gradients, strict=False))}
