"""FrozenBatchNorm3d: BatchNorm by constant statistics, with a learned scale and offset.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers.groups import check_count
from gnvideo.layers.normalizer import Normalizer3d, get_final_activation
from gnvideo.ops.activation import Activation
from gnvideo.ops.batch_norm import batch_norm_act


class FrozenBatchNorm3d(Normalizer3d):
    """Normalizes by statistics that never change, in training as in evaluation.

        y = (x - running_mean) / sqrt(running_var + eps) * weight + bias
    The statistics are those of a checkpoint: keys and shapes are BatchNorm3d's. Weight and bias are
    trained, as in the non-local code; Detectron keeps them constant too. Without a checkpoint the
    statistics stay at their start, mean 0 and variance 1, and this is a scale and an offset of
    activations that nothing normalizes.

    Shape:
        input   (N, C, T, H, W), any floating point dtype, contiguous or channels_last_3d
        output  same shape, dtype and layout

    Args:
        num_channels: C. First, as in BatchNorm3d.
        eps: Added to the variance.
        activation: What follows the normalization.
        implementation: A name in `gnvideo.ops.implementation.IMPLEMENTATIONS`.

    Raises:
        NormalizerError: C is not a positive integer, or an input is not (N, C, T, H, W).

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, sec. 4.1, arXiv:1711.07971, and
        AffineNd in their code.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-5,
        *,
        activation: Activation = None,
        implementation: str = "auto",
    ) -> None:
        super().__init__(check_count("num_channels", num_channels), activation)
        self.eps = eps
        self.implementation = implementation
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.register_buffer("running_mean", torch.empty(num_channels))
        self.register_buffer("running_var", torch.empty(num_channels))
        # Not read here: a state dict of BatchNorm3d has it.
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets weight and running_var to 1, bias and running_mean to 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        self.check_input(x)
        return batch_norm_act(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            eps=self.eps,
            residual=residual,
            activation=get_final_activation(self.activation, residual),
            implementation=self.implementation,
        )

    def extra_repr(self) -> str:
        """Returns the channels and eps for the module's text."""
        return f"{self.num_channels}, eps={self.eps}"
