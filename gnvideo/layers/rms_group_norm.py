"""RmsGroupNorm3d: group normalization without the mean.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import torch

from gnvideo.layers.channel_affine import ChannelAffine3d
from gnvideo.layers.frames import normalize_frames
from gnvideo.layers.groups import find_num_groups
from gnvideo.layers.normalizer import finish
from gnvideo.ops.activation import Activation
from gnvideo.ops.moments import compute_moments, spread_groups
from gnvideo.ops.scale_shift import scale_and_shift


class RmsGroupNorm3d(ChannelAffine3d):
    """Divides each group of channels of a clip by its root mean square.

    With S(n, g) the elements of channels [g * C/G, (g + 1) * C/G) over all T, H, W of clip n:
        y = x / sqrt(mean_S(x^2) + eps) * weight + bias
    RMSNorm has no bias. This one does, so that it differs from GroupNorm3d in the mean alone.

    Shape:
        input   (N, C, T, H, W), any floating point dtype, contiguous or channels_last_3d
        output  same shape, dtype and layout; statistics are float32 for half precision, and
                `torch.autocast` changes nothing

    Args:
        num_channels: C.
        num_groups: The wanted G, see `find_num_groups`; `self.num_groups` is the one in use.
        eps: Added to the mean square.
        channels_per_group: The wanted C / G, instead of num_groups.
        per_frame: Whether S is over H, W of one frame instead of T, H, W.
        activation: What follows the normalization.

    Raises:
        NormalizerError: C, G or C / G is not a positive integer, or an input is not
            (N, C, T, H, W).

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019,
        arXiv:1910.07467, over the groups of Wu and He, arXiv:1803.08494.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        *,
        channels_per_group: int | None = None,
        per_frame: bool = False,
        activation: Activation = None,
    ) -> None:
        super().__init__(num_channels, activation=activation)
        self.num_groups = find_num_groups(num_channels, num_groups, channels_per_group)
        self.channels_per_group = channels_per_group
        self.per_frame = per_frame
        self.eps = eps

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        self.check_input(x)
        if self.per_frame:
            return normalize_frames(
                self._normalize, x, residual, self.weight, self.bias, self.activation
            )
        return self._normalize(x, residual, self.weight, self.bias)

    def _normalize(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        assert weight is not None
        assert bias is not None
        x, mean_NC, var_NC = compute_moments(x)
        square_NG = (var_NC + mean_NC.square()).unflatten(1, (self.num_groups, -1)).mean(2)
        rrms_NC = spread_groups((square_NG + self.eps).rsqrt(), self.num_channels)
        y = scale_and_shift(x, rrms_NC * weight, bias[None])
        return finish(y, self.activation, residual)

    def extra_repr(self) -> str:
        """Returns the channels and the groups in use for the module's text."""
        return (
            f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}, "
            f"per_frame={self.per_frame}"
        )
