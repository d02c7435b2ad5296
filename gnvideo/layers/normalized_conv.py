"""Convolutions by normalized weights: weight standardization and weight normalization.

Axes: C_in and C_out channels, T frames, H height, W width of the kernel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from gnvideo.errors import NormalizerError
from gnvideo.layers.adjusted_conv import AdjustedConv3d

_STANDARDIZATION_EPS = 1e-10


class StandardizedConv3d(AdjustedConv3d):
    """A convolution by weights of mean 0 and variance 1 in each output channel.

    With S(o) the weights of output channel o, over C_in / groups and T, H, W of the kernel:
        weight used = (weight - mean_S) / sqrt(var_S + 1e-10)       (biased variance)
    Computed in float32; the convolution casts the result as it casts any weight. There are three
    definitions: this is BiT's. The authors' code divides by the unbiased deviation plus 1e-5; timm
    has the biased variance plus 1e-6. He's initialization gives a wide layer a variance of 1e-4
    (at C_out * T * H * W = 20000), and weight decay takes more. 1e-10 is small enough for the
    weight's scale not to matter.

    Raises:
        NormalizerError: An output channel has a single weight, whose deviation is 0.

    Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
        Standardization", 2019, arXiv:1903.10520; the constants are those of Kolesnikov et al., "Big
        Transfer (BiT)", ECCV 2020, arXiv:1912.11370.
    """

    def __init__(self, *arguments: Any, **named_arguments: Any) -> None:
        super().__init__(*arguments, **named_arguments)
        if self.weight[0].numel() == 1:
            raise NormalizerError(
                f"weight standardization got a kernel of shape {tuple(self.weight.shape)}: one "
                f"weight an output channel, which would become 0; choose another normalizer"
            )

    def compute_weight(self) -> torch.Tensor:
        """Returns the standardized weight (C_out, C_in / groups, T, H, W)."""
        rows = _lift(self.weight).flatten(1)
        standardized = functional.layer_norm(rows, rows.shape[1:], eps=_STANDARDIZATION_EPS)
        return standardized.view_as(self.weight).to(self.weight.dtype)


class WeightNormConv3d(AdjustedConv3d):
    """A convolution by weights of norm sqrt(2) in each output channel.

    With S(o) as in `StandardizedConv3d`:
        weight used = sqrt(2) * weight / ||weight||_S
    Computed in float32; the convolution casts the result. A `ChannelAffine3d` behind it learns the
    norm, as the g of weight normalization:
        y = g * (sqrt(2) * v / ||v|| * x) + b
    With sqrt(2) a network starts as under He's initialization when g starts at 1: of an input of
    variance s a ReLU leaves the mean square s / 2, and the convolution makes that s again. So g
    needs neither a start of its own nor a pass over data that sets it.

    Source: Salimans and Kingma, "Weight Normalization", NIPS 2016, arXiv:1602.07868, without its
        start from data; He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.
    """

    def compute_weight(self) -> torch.Tensor:
        """Returns the weight (C_out, C_in / groups, T, H, W) of norm sqrt(2)."""
        directions = functional.normalize(_lift(self.weight).flatten(1), dim=1)
        return (math.sqrt(2) * directions).view_as(self.weight).to(self.weight.dtype)


def _lift(weight: torch.Tensor) -> torch.Tensor:
    """Returns the weight in the dtype that is computed in: float32 for half precision."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
