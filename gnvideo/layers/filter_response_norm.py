"""FilterResponseNorm3d: filter response normalization with its thresholded linear unit.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gnvideo.layers.channel_affine import ChannelAffine3d
from gnvideo.layers.normalizer import finish
from gnvideo.ops.activation import Activation
from gnvideo.ops.moments import compute_moments
from gnvideo.ops.recomputation import is_recording, recompute_in_backward
from gnvideo.ops.scale_shift import scale_and_shift


class FilterResponseNorm3d(ChannelAffine3d):
    """Divides each channel of a clip by its root mean square; a learned threshold replaces ReLU.

    With S(n, c) the elements of channel c over all T, H, W of clip n:
        y = max(x / sqrt(mean_S(x^2) + eps) * weight + bias, tau)
    `tau` has a value for each channel and starts at 0, which is ReLU. Without an activation there
    is no tau. The mean is not subtracted, so the bias is what moves values across the threshold.

    The paper learns eps for maps of a single position, where x / sqrt(x^2 + eps) is little but the
    sign of x. Here eps is a constant: the networks normalize no such maps at their training size.

    Shape:
        input   (N, C, T, H, W), any floating point dtype, contiguous or channels_last_3d
        output  same shape, dtype and layout; statistics are float32 for half precision, and
                `torch.autocast` changes nothing

    Args:
        num_channels: C.
        eps: Added to the mean square; the paper's constant is 1e-6.
        activation: Whether there is a threshold.

    Raises:
        NormalizerError: An input is not (N, C, T, H, W).

    Source: Singh and Krishnan, "Filter Response Normalization Layer", CVPR 2020, arXiv:1911.09737.
    """

    tau: nn.Parameter | None

    def __init__(
        self, num_channels: int, eps: float = 1e-5, *, activation: Activation = None
    ) -> None:
        super().__init__(num_channels, activation=activation)
        self.eps = eps
        if activation is None:
            self.register_parameter("tau", None)
        else:
            self.tau = nn.Parameter(torch.zeros(num_channels))

    def reset_parameters(self) -> None:
        """Sets weight to 1, bias and tau to 0."""
        super().reset_parameters()
        if self.tau is not None:
            nn.init.zeros_(self.tau)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        self.check_input(x)
        x, mean_NC, var_NC = compute_moments(x)
        rrms_NC = (var_NC + mean_NC.square() + self.eps).rsqrt()
        y = scale_and_shift(x, rrms_NC * self.weight, self.bias[None])
        if self.tau is None or residual is not None:
            return finish(y, None, residual)
        if is_recording():
            return recompute_in_backward(_threshold, y, self.tau)
        return _threshold(y, self.tau)

    def extra_repr(self) -> str:
        """Returns the channels and eps for the module's text."""
        return f"{self.num_channels}, eps={self.eps}, threshold={self.tau is not None}"


def _threshold(y: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    return _Threshold.apply(y, tau)  # pyright: ignore[reportReturnType] (torch types apply as Any | None)


class _Threshold(torch.autograd.Function):
    """max(y, tau), keeping the result alone, which the next convolution keeps as well.

    torch.maximum would keep y, too. Where y equals tau, the gradient goes to tau, as ReLU's at 0
    does not go to its input.
    """

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        ctx.tau_dtype = tau.dtype
        tau_C111 = tau.to(y.dtype)[:, None, None, None]
        result = torch.maximum(y, tau_C111)
        ctx.save_for_backward(result, tau_C111)
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (dresult,) = grad_outputs
        result, tau_C111 = ctx.saved_tensors
        passes = result > tau_C111
        dy = dresult * passes
        dtau = (dresult * ~passes).sum((0, 2, 3, 4), dtype=ctx.tau_dtype)
        return dy, dtau
