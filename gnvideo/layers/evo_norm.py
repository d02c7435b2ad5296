"""EvoNormS03d: normalization and activation in one, found by search.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers.channel_affine import ChannelAffine3d
from gnvideo.layers.groups import find_num_groups
from gnvideo.ops.activation import Activation
from gnvideo.ops.moments import compute_moments, pool_moments, spread_groups
from gnvideo.ops.scale_shift import gate_scale_and_shift


class EvoNormS03d(ChannelAffine3d):
    """EvoNorm-S0: a gated input, divided by the deviation of its group.

    With S(n, g) the elements of channels [g * C/G, (g + 1) * C/G) over all T, H, W of clip n:
        y = x * sigmoid(v * x) / sqrt(var_S(x) + eps) * weight + bias       (biased variance)
    `v` has a value for each channel and starts at 1. The mean is not subtracted. Where a network
    has no activation, there is neither gate nor division: y = x * weight + bias, as in the authors'
    code.

    Shape:
        input   (N, C, T, H, W), any floating point dtype, contiguous or channels_last_3d
        output  same shape, dtype and layout; statistics are float32 for half precision, and
                `torch.autocast` changes nothing

    Args:
        num_channels: C.
        num_groups: The wanted G, see `find_num_groups`; `self.num_groups` is the one in use.
        eps: Added to the variance.
        channels_per_group: The wanted C / G, instead of num_groups.
        activation: Whether there are gate and division.

    Raises:
        NormalizerError: C, G or C / G is not a positive integer, or an input is not
            (N, C, T, H, W).

    Source: Liu et al., "Evolving Normalization-Activation Layers", NeurIPS 2020, arXiv:2004.02967.
    """

    v: nn.Parameter | None

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        *,
        channels_per_group: int | None = None,
        activation: Activation = None,
    ) -> None:
        super().__init__(num_channels, activation=activation)
        self.num_groups = find_num_groups(num_channels, num_groups, channels_per_group)
        self.channels_per_group = channels_per_group
        self.eps = eps
        if activation is None:
            self.register_parameter("v", None)
        else:
            self.v = nn.Parameter(torch.ones(num_channels))

    def reset_parameters(self) -> None:
        """Sets weight and v to 1, bias to 0."""
        super().reset_parameters()
        if self.v is not None:
            nn.init.ones_(self.v)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        if self.v is None or residual is not None:
            return super().forward(x, residual)
        self.check_input(x)
        x, mean_NC, var_NC = compute_moments(x)
        _, var_NG = pool_moments(mean_NC, var_NC, self.num_groups)
        rstd_NC = spread_groups((var_NG + self.eps).rsqrt(), self.num_channels)
        return gate_scale_and_shift(x, self.v, rstd_NC * self.weight, self.bias[None])

    def extra_repr(self) -> str:
        """Returns the channels and the groups in use for the module's text."""
        return (
            f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}, "
            f"gate={self.v is not None}"
        )
