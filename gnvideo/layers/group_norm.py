"""GroupNorm3d: group normalization of clips, callable where BatchNorm3d is called.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers.normalizer import Activation, Normalizer3d, activate
from gnvideo.ops.group_norm import group_norm

_logger = logging.getLogger(__name__)


class GroupNorm3d(Normalizer3d):
    """Normalizes each clip over groups of channels, independent of the batch.

    With S(n, g) the elements of channels [g * C/G, (g + 1) * C/G) over all T, H, W of clip n:
        y = (x - mean_S) / sqrt(var_S + eps) * weight + bias        (biased variance)
    Training and evaluation compute the same thing; there are no running statistics.

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
        momentum: Taken and unused, so that a call written for BatchNorm3d works.
        affine: Whether there are a weight (starts at 1) and a bias (starts at 0) for each channel.
        track_running_stats: Taken and unused, as momentum.
        num_features: BatchNorm3d's name for num_channels; give one of the two.
        implementation: A name in `gnvideo.ops.group_norm.IMPLEMENTATIONS`.
        activation: What follows the normalization.
        device: Where the parameters live.
        dtype: The parameters' dtype; float32 parameters fit inputs of any precision.

    Raises:
        NormalizerError: C or G is not a positive integer, both or neither of num_channels and
            num_features are given, or an input is not (N, C, T, H, W).

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
        momentum: float | None = None,
        affine: bool = True,
        track_running_stats: bool = False,
        num_features: int | None = None,
        implementation: str = "native",
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
        super().__init__(_check_count("num_channels", channels), activation)
        self.num_groups = _find_num_groups(
            self.num_channels, _check_count("num_groups", num_groups)
        )
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        if x.ndim != 5 or x.shape[1] != self.num_channels:
            raise NormalizerError(
                f"GroupNorm3d of {self.num_channels} channels got an input of shape "
                f"{tuple(x.shape)}; it takes (N, {self.num_channels}, T, H, W)"
            )
        y = group_norm(x, self.num_groups, self.weight, self.bias, self.eps, self.implementation)
        return activate(y, self.activation)

    def extra_repr(self) -> str:
        """Returns the channels and the groups in use for the module's text."""
        return (
            f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}, "
            f"affine={self.weight is not None}"
        )


def _check_count(name: str, value: object) -> int:
    # A float here is most likely BatchNorm3d's eps, second in its positional order.
    if not isinstance(value, int) or value < 1:
        raise NormalizerError(f"GroupNorm3d {name} is {value!r}; it must be a positive integer")
    return value


@functools.cache
def _find_num_groups(num_channels: int, wanted: int) -> int:
    """Returns the largest divisor of num_channels up to `wanted`; cached, so that it logs once."""
    divisor = next(g for g in range(min(wanted, num_channels), 0, -1) if num_channels % g == 0)
    if divisor != wanted:
        _logger.info(
            "GroupNorm3d: %d groups do not divide %d channels; using %d groups",
            wanted,
            num_channels,
            divisor,
        )
    return divisor
