"""Convolutions that some normalizers need in front of them: each computes the weight it uses."""

from __future__ import annotations

import torch
from torch import nn


class AdjustedConv3d(nn.Conv3d):
    """A convolution by a function of its weight.

    The parameter is still `weight`, in the shape of a plain convolution's, so that initialization,
    weight decay and checkpoints know no difference. A subclass defines `compute_weight`.
    """

    def compute_weight(self) -> torch.Tensor:
        """Returns the weight (C_out, C_in / groups, T, H, W) that the input is convolved with."""
        raise NotImplementedError

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the convolution of the input (N, C_in, T, H, W)."""
        return self._conv_forward(input, self.compute_weight(), self.bias)
