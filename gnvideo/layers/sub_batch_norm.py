"""SubBatchNorm3d: BatchNorm over parts of the batch ("ghost" batch norm).

Axes: N clips, C channels, T frames, H height, W width; S sub-batches.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional

from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.groups import check_count
from gnvideo.layers.normalizer import finish
from gnvideo.ops.activation import Activation
from gnvideo.ops.recomputation import is_recording, recompute_in_backward


class SubBatchNorm3d(BatchNorm3d):
    """BatchNorm over each run of `sub_batch_clips` clips of the batch.

    For sub-batch s, the clips [s * sub_batch_clips, (s + 1) * sub_batch_clips), and each channel:
        y = (x - mean_s) / sqrt(var_s + eps) * weight + bias        (biased variance)
    The last sub-batch may be smaller. Evaluation uses running_mean and running_var, moving averages
    of the statistics of the whole batch, put together from those of its sub-batches: the mean of
    the means, and the mean of the biased variances plus the variance of the means, by number of
    elements; then made unbiased by the whole batch's count. So they equal BatchNorm3d's. PySlowFast
    averages each sub-batch's statistics over time first; the variance between sub-batches is then
    lost, as their averages are nearly equal.

    Args:
        num_features: C.
        sub_batch_clips: Clips of a sub-batch.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        activation: What follows the normalization.

    Raises:
        NormalizerError: sub_batch_clips is not a positive integer, or an input is not
            (N, C, T, H, W).
        ValueError: In training, a channel of a sub-batch has a single value.

    Source: Hoffer et al., "Train longer, generalize better", NIPS 2017, sec. 4, arXiv:1705.08741;
        Wu et al., "A Multigrid Method for Efficiently Training Video Models", CVPR 2020,
        arXiv:1912.00998.
    """

    def __init__(
        self,
        num_features: int,
        sub_batch_clips: int = 2,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        activation: Activation = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, activation=activation)
        self.sub_batch_clips = check_count("sub_batch_clips", sub_batch_clips)

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the input (N, C, T, H, W) normalized and activated."""
        if not self.training:
            return super().forward(input, residual)
        self._check_input_dim(input)
        sub_batches = input.split(self.sub_batch_clips)
        # With momentum 1 the operator leaves there the sub-batch's mean and unbiased variance.
        mean_SC = self.weight.new_zeros(len(sub_batches), self.num_features)
        var_SC = torch.ones_like(mean_SC)
        normalize = functools.partial(
            _normalize_parts,
            mean_SC=mean_SC,
            var_SC=var_SC,
            sub_batch_clips=self.sub_batch_clips,
            eps=self.eps,
            activation=self.activation if residual is None else None,
        )
        if is_recording():
            # By themselves the parts would be kept, of which none is what was offered.
            y = recompute_in_backward(normalize, input, self.weight, self.bias)
        else:
            y = normalize(input, self.weight, self.bias)
        self._count_sub_batches(sub_batches, mean_SC, var_SC)
        return y if residual is None else finish(y, None, residual)

    @torch.no_grad()
    def _count_sub_batches(
        self, sub_batches: tuple[torch.Tensor, ...], mean_SC: torch.Tensor, var_SC: torch.Tensor
    ) -> None:
        num_positions = sub_batches[0][0, 0].numel()
        counts = [len(part) * num_positions for part in sub_batches]
        count_S1 = mean_SC.new_tensor(counts)[:, None]
        share_S1 = count_S1 / sum(counts)
        mean_C = (share_S1 * mean_SC).sum(0)
        biased_var_SC = var_SC * ((count_S1 - 1) / count_S1)
        var_C = (share_S1 * (biased_var_SC + (mean_SC - mean_C).square())).sum(0)
        self._update_running_statistics(mean_C, var_C, sum(counts))

    def extra_repr(self) -> str:
        """Returns BatchNorm3d's text and the clips of a sub-batch."""
        return f"{super().extra_repr()}, sub_batch_clips={self.sub_batch_clips}"


def _normalize_parts(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    mean_SC: torch.Tensor,
    var_SC: torch.Tensor,
    sub_batch_clips: int,
    eps: float,
    activation: Activation,
) -> torch.Tensor:
    """Returns x normalized and activated; writes each part's mean and unbiased variance (S, C)."""
    outputs = [
        functional.batch_norm(part, mean_C, var_C, weight, bias, True, 1.0, eps)
        for part, mean_C, var_C in zip(x.split(sub_batch_clips), mean_SC, var_SC, strict=True)
    ]
    return finish(torch.cat(outputs), activation)
