"""ChannelAffine3d: a scale and an offset for each channel, and the base of those that end so.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers.normalizer import Normalizer3d, finish
from gnvideo.ops.activation import Activation
from gnvideo.ops.scale_shift import scale_and_shift


class ChannelAffine3d(Normalizer3d):
    """Scales and shifts each channel; it has no statistics.

        y = x * weight + bias

    Behind a `WeightNormConv3d`, whose weight has a fixed norm, it is the other half of weight
    normalization: `weight` is that method's g, and starts at 1 as the scale of any normalizer.

    Shape:
        input   (N, C, T, H, W), any floating point dtype, contiguous or channels_last_3d
        output  same shape, dtype and layout; half precision is computed in float32, and
                `torch.autocast` changes nothing

    Args:
        num_channels: C.
        activation: What follows.

    Raises:
        NormalizerError: An input is not (N, C, T, H, W).
    """

    def __init__(self, num_channels: int, *, activation: Activation = None) -> None:
        super().__init__(num_channels, activation)
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def reset_parameters(self) -> None:
        """Sets weight to 1 and bias to 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) scaled, shifted and activated, in its dtype and layout."""
        self.check_input(x)
        y = scale_and_shift(x, self.weight[None], self.bias[None])
        return finish(y, self.activation, residual)

    def extra_repr(self) -> str:
        """Returns the channels for the module's text."""
        return f"{self.num_channels}"
