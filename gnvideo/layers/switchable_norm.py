"""SwitchableNorm3d: a learned mixture of the statistics of instance, layer and batch norm.

Axes: N clips, C channels, T frames, H height, W width; K = 3 kinds of statistics.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.normalizer import finish
from gnvideo.ops.activation import Activation
from gnvideo.ops.moments import compute_moments, pool_moments
from gnvideo.ops.scale_shift import scale_and_shift


class SwitchableNorm3d(BatchNorm3d):
    """Normalizes by a mixture of instance, layer and batch statistics, whose weights are learned.

        mean = sum_k softmax(mean_logits)_k * mean_k            k in (instance, layer, batch)
        var  = sum_k softmax(var_logits)_k * var_k
        y = (x - mean) / sqrt(var + eps) * weight + bias
    Instance statistics are over T, H, W, layer statistics over C, T, H, W of a clip; batch
    statistics are over N, T, H, W of one device's batch. Every variance is biased; in the authors'
    code that of instance norm is not, and with it all others, which are made of it. Evaluation uses
    running_mean and running_var, moving averages of the batches' mean and unbiased variance as in
    BatchNorm3d, for the batch's part alone. In a batch of one clip that part equals instance norm's
    in training.

    Shape:
        input   (N, C, T, H, W), any floating point dtype, contiguous or channels_last_3d
        output  same shape, dtype and layout; statistics are float32 for half precision, and
                `torch.autocast` changes nothing

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        activation: What follows the normalization.

    Raises:
        NormalizerError: An input is not (N, C, T, H, W).

    Source: Luo et al., "Differentiable Learning-to-Normalize via Switchable Normalization", ICLR
        2019, arXiv:1806.10779.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        activation: Activation = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, activation=activation)
        self.mean_logits = nn.Parameter(torch.zeros(3))
        self.var_logits = nn.Parameter(torch.zeros(3))

    def reset_parameters(self) -> None:
        """Sets weight to 1, bias to 0, the logits to 0, running mean to 0 and variance to 1."""
        super().reset_parameters()
        # torch's constructor asks for this before there are logits.
        for name in ("mean_logits", "var_logits"):
            if name in self._parameters:
                nn.init.zeros_(self.get_parameter(name))

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the input (N, C, T, H, W) normalized and activated."""
        self._check_input_dim(input)
        x, mean_NC, var_NC = compute_moments(input)
        layer_mean_N1, layer_var_N1 = pool_moments(mean_NC, var_NC, 1)
        batch_mean_1C, batch_var_1C = self._get_batch_statistics(mean_NC, var_NC, x)
        means = (mean_NC, layer_mean_N1, batch_mean_1C)
        variances = (var_NC, layer_var_N1, batch_var_1C)
        mixed_mean_NC = _mix(means, self.mean_logits)
        scale_NC = (_mix(variances, self.var_logits) + self.eps).rsqrt() * self.weight
        y = scale_and_shift(x, scale_NC, self.bias - mixed_mean_NC * scale_NC)
        return finish(y, self.activation, residual)

    def _get_batch_statistics(
        self, mean_NC: torch.Tensor, var_NC: torch.Tensor, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns mean and variance (1, C): the batch's in training, else the running ones."""
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training:
            return self.running_mean[None], self.running_var[None]
        mean_C1, var_C1 = pool_moments(mean_NC.T, var_NC.T, 1)
        self._update_running_statistics(mean_C1[:, 0], var_C1[:, 0], x.numel() // x.shape[1])
        return mean_C1.T, var_C1.T


def _mix(
    statistics: tuple[torch.Tensor, torch.Tensor, torch.Tensor], logits_K: torch.Tensor
) -> torch.Tensor:
    """Returns the mean (N, C) of statistics that broadcast to it, weighted by the softmax."""
    instance, layer, batch = statistics
    weights_K = logits_K.softmax(0)
    # The weights add to 1. In this form a large common part of the means does not reach the
    # gradient of the logits, where it would have to cancel.
    return instance + weights_K[1] * (layer - instance) + weights_K[2] * (batch - instance)
