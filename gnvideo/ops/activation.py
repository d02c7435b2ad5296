"""The activations that operators fuse: their values and their slopes."""

from __future__ import annotations

from typing import Literal

import torch

Activation = Literal["relu", "silu"] | None
"""What follows the normalization and the residual sum; None is nothing."""


def activate_(y: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Returns y after the activation, in y's own memory: give a tensor that nobody else needs."""
    if activation == "relu":
        return torch.relu_(y)
    if activation == "silu":
        return torch.nn.functional.silu(y, inplace=True)
    return y


def add_and_activate_(
    y: torch.Tensor, residual: torch.Tensor | None, activation: Activation
) -> torch.Tensor:
    """Returns the activation of y + residual, if there is one, in y's own memory."""
    if residual is not None:
        y += residual
    return activate_(y, activation)


def compute_activation_slope(z: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Returns the derivative of the activation at z, in z's shape and dtype.

    ReLU's at 0 is 0, as in torch.
    """
    if activation == "relu":
        return (z > 0).to(z.dtype)
    if activation == "silu":
        gate = z.sigmoid()
        return gate * (1 + z * (1 - gate))
    return torch.ones_like(z)
