"""BatchChannelNorm3d: BatchNorm by estimated statistics, then group normalization.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers.groups import check_count, find_num_groups
from gnvideo.layers.normalizer import Normalizer3d, finish
from gnvideo.ops.activation import Activation
from gnvideo.ops.moments import compute_moments, pool_moments, spread_groups
from gnvideo.ops.scale_shift import scale_and_shift


class BatchChannelNorm3d(Normalizer3d):
    """Normalizes each channel by moving averages over batches, then each clip over its groups.

    In training the averages first take in the batch; no gradient goes through them:
        running_var  += momentum * (mean of (x - running_mean)^2 - running_var)
        running_mean += momentum * (mean of x - running_mean)
    Both means are over N, T, H, W; the first is around the running mean before this batch. Then, in
    training as in evaluation, for each channel and then for each group:
        z = (x - running_mean) / sqrt(running_var + eps) * batch_weight + batch_bias
        y = (z - mean_S) / sqrt(var_S + eps) * weight + bias            (biased variance)
    with S(n, g) the elements of group g over T, H, W of clip n. There are one weight and one bias
    for each group, as in the authors' code. This is the form for small batches; for large ones the
    paper has BatchNorm proper in the first line. Its convolutions have standardized weights.

    `weight` is the last scale: with 0 the output is `bias`. Training normalizes by the same
    averages as evaluation, so there are no precise statistics to recompute.

    Shape:
        input   (N, C, T, H, W), any floating point dtype, contiguous or channels_last_3d
        output  same shape, dtype and layout; statistics are float32 for half precision, and
                `torch.autocast` changes nothing

    Args:
        num_channels: C.
        num_groups: The wanted G, as in GroupNorm3d.
        eps: Added to both variances.
        momentum: Weight of the newest batch in the moving averages.
        channels_per_group: The wanted C / G, instead of num_groups.
        activation: What follows the normalization.

    Raises:
        NormalizerError: C, G or C / G is not a positive integer, or an input is not
            (N, C, T, H, W).

    Source: Qiao et al., "Rethinking Normalization and Elimination Singularity in Neural Networks",
        2019, arXiv:1911.09738; EstBN and BCNorm in the authors' code
        joe-siyuan-qiao/Batch-Channel-Normalization.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        channels_per_group: int | None = None,
        activation: Activation = None,
    ) -> None:
        super().__init__(check_count("num_channels", num_channels), activation)
        self.num_groups = find_num_groups(num_channels, num_groups, channels_per_group)
        self.channels_per_group = channels_per_group
        self.eps = eps
        self.momentum = momentum
        self.batch_weight = nn.Parameter(torch.empty(num_channels))
        self.batch_bias = nn.Parameter(torch.empty(num_channels))
        self.weight = nn.Parameter(torch.empty(self.num_groups))
        self.bias = nn.Parameter(torch.empty(self.num_groups))
        self.register_buffer("running_mean", torch.empty(num_channels))
        self.register_buffer("running_var", torch.empty(num_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the scales and running_var to 1, the offsets and running_mean to 0."""
        for scale in (self.batch_weight, self.weight):
            nn.init.ones_(scale)
        for offset in (self.batch_bias, self.bias):
            nn.init.zeros_(offset)
        self.running_mean.zero_()
        self.running_var.fill_(1)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        self.check_input(x)
        x, mean_NC, var_NC = compute_moments(x)
        if self.training:
            # Detached, since torch.compile follows gradients through values made without them.
            running_mean_C, running_var_C = self._take_batch(mean_NC.detach(), var_NC.detach())
        else:
            running_mean_C, running_var_C = self.running_mean, self.running_var
        slope_C = (running_var_C + self.eps).rsqrt() * self.batch_weight
        # z is a scale and an offset of x, so its moments are those of x, moved.
        z_mean_NC = (mean_NC - running_mean_C) * slope_C + self.batch_bias
        group_mean_NG, group_var_NG = pool_moments(
            z_mean_NC, var_NC * slope_C.square(), self.num_groups
        )
        group_scale_NG = (group_var_NG + self.eps).rsqrt() * self.weight
        group_scale_NC = spread_groups(group_scale_NG, self.num_channels)
        group_mean_NC = spread_groups(group_mean_NG, self.num_channels)
        z_shift_NC = self.batch_bias - running_mean_C * slope_C - group_mean_NC
        shift_NC = z_shift_NC * group_scale_NC + spread_groups(self.bias, self.num_channels)
        y = scale_and_shift(x, slope_C * group_scale_NC, shift_NC)
        return finish(y, self.activation, residual)

    @torch.no_grad()
    def _take_batch(
        self, mean_NC: torch.Tensor, var_NC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the moved averages, apart from the buffers, which the next forward changes."""
        mean_C1, var_C1 = pool_moments(mean_NC.T, var_NC.T, 1)
        offset_C = mean_C1[:, 0].to(self.running_mean.dtype) - self.running_mean
        deviations_C = var_C1[:, 0].to(self.running_var.dtype) + offset_C.square()
        moved_mean_C = self.running_mean + self.momentum * offset_C
        moved_var_C = self.running_var.lerp(deviations_C, self.momentum)
        self.running_mean.copy_(moved_mean_C)
        self.running_var.copy_(moved_var_C)
        return moved_mean_C, moved_var_C

    def extra_repr(self) -> str:
        """Returns the channels, the groups in use and settings for the module's text."""
        return (
            f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}, "
            f"momentum={self.momentum}"
        )
