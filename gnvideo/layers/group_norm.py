"""GroupNorm3d: group normalization of clips, callable where BatchNorm3d is called.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers.frames import normalize_frames
from gnvideo.layers.groups import check_count, find_num_groups
from gnvideo.layers.normalizer import Normalizer3d, get_final_activation
from gnvideo.ops.activation import Activation
from gnvideo.ops.arguments import check_arguments
from gnvideo.ops.group_norm import run_group_norm_act


class GroupNorm3d(Normalizer3d):
    """Normalizes each clip over groups of channels, independent of the batch.

    With S(n, g) the elements of channels [g * C/G, (g + 1) * C/G) over all T, H, W of clip n:
        y = (x - mean_S) / sqrt(var_S + eps) * weight + bias        (biased variance)
    Training and evaluation compute the same thing; there are no running statistics. G = 1 is layer
    normalization over C, T, H, W; G = C is instance normalization.

    Shape:
        input   (N, C, T, H, W), float16 / bfloat16 / float32 / float64, contiguous or
                channels_last_3d
        output  same shape, dtype and layout; statistics are float32 for half precision, and
                `torch.autocast` does not lift the input to float32

    Args:
        num_channels: C. First, as in BatchNorm3d.
        num_groups: The wanted G. Where it does not divide C, the largest divisor of C below it is
            taken, logged once and shown in the module's text; `self.num_groups` is the one in use.
        eps: Added to the variance.
        channels_per_group: The wanted C / G, instead of num_groups; likewise the largest divisor of
            C below where it does not divide C.
        per_frame: Whether S is over H, W of one frame instead of T, H, W. Free in channels_last_3d
            layout; contiguous inputs are copied there and back.
        momentum: Taken and unused, so that a call written for BatchNorm3d works.
        affine: Whether there are a weight (starts at 1) and a bias (starts at 0) for each channel.
        track_running_stats: Taken and unused, as momentum.
        num_features: BatchNorm3d's name for num_channels; give one of the two.
        implementation: A name in `gnvideo.ops.implementation.IMPLEMENTATIONS`.
        activation: What follows the normalization.
        device: Where the parameters live.
        dtype: The parameters' dtype; float32 parameters fit inputs of any precision.

    Raises:
        NormalizerError: C, G or C / G is not a positive integer, both or neither of num_channels
            and num_features are given, or an input is not (N, C, T, H, W).

    Source: Wu and He, "Group Normalization", ECCV 2018, sec. 3.1 and 4.3, arXiv:1803.08494.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_channels: int | None = None,
        num_groups: int = 32,
        eps: float = 1e-5,
        *,
        channels_per_group: int | None = None,
        per_frame: bool = False,
        momentum: float | None = None,
        affine: bool = True,
        track_running_stats: bool = False,
        num_features: int | None = None,
        implementation: str = "auto",
        activation: Activation = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        del momentum, track_running_stats
        if (num_channels is None) == (num_features is None):
            raise NormalizerError(
                f"GroupNorm3d got num_channels={num_channels} and num_features={num_features}; "
                f"give the number of channels by one of these names"
            )
        channels = num_channels if num_channels is not None else num_features
        super().__init__(check_count("num_channels", channels), activation)
        self.num_groups = find_num_groups(self.num_channels, num_groups, channels_per_group)
        self.channels_per_group = channels_per_group
        self.per_frame = per_frame
        self.eps = eps
        self.implementation = implementation
        if affine:
            self.weight = nn.Parameter(torch.empty(self.num_channels, device=device, dtype=dtype))
            self.bias = nn.Parameter(torch.empty(self.num_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets weight to 1 and bias to 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        self.check_input(x)
        # Not all checks of group_norm_act, which small clips would feel.
        if x.numel() == 0 or (residual is not None and residual.shape != x.shape):
            check_arguments(type(self).__name__, x, None, None, residual)
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
        return run_group_norm_act(
            x,
            self.num_groups,
            weight,
            bias,
            self.eps,
            residual,
            get_final_activation(self.activation, residual),
            self.implementation,
        )

    def extra_repr(self) -> str:
        """Returns the channels and the groups in use for the module's text."""
        return (
            f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}, "
            f"affine={self.weight is not None}, per_frame={self.per_frame}"
        )
