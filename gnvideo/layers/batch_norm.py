"""BatchNorm3d with the activation after it.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers.normalizer import Activation, activate


class BatchNorm3d(nn.BatchNorm3d):
    """torch's BatchNorm3d, then the activation.

    For each channel, over all N, T, H, W of one device's batch:
        y = (x - mean) / sqrt(var + eps) * weight + bias        (biased variance)
    Evaluation uses running_mean and running_var, moving averages of the batches' mean and unbiased
    variance.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        activation: What follows the normalization.

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        activation: Activation = None,
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.activation: Activation = activation

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the input (N, C, T, H, W) normalized and activated."""
        return activate(super().forward(input), self.activation)
