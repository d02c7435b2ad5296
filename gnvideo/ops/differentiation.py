"""Gradients that can be differentiated again."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def compute_differentiable_gradients(
    y: torch.Tensor,
    inputs: Sequence[torch.Tensor | None],
    is_wanted: Sequence[bool],
    dy: torch.Tensor,
) -> list[torch.Tensor | None]:
    """Returns the gradient of each input as a function of the inputs; None if absent or unwanted.

    Args:
        y: A function of the inputs, with its graph.
        inputs: As many as there are gradients.
        is_wanted: For each input.
        dy: Gradient of y.
    """
    asked = [tensor if wanted else None for tensor, wanted in zip(inputs, is_wanted, strict=True)]
    present = [tensor for tensor in asked if tensor is not None]
    if not present:
        return [None for _ in asked]
    found = iter(torch.autograd.grad(y, present, dy, create_graph=True))
    return [None if tensor is None else next(found) for tensor in asked]
