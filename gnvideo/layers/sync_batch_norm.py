"""SyncBatchNorm3d: BatchNorm over the clips of all processes, on any device.

Axes: P processes, N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.normalizer import finish
from gnvideo.ops.moments import compute_moments, pool_moments
from gnvideo.ops.scale_shift import scale_and_shift


class SyncBatchNorm3d(BatchNorm3d):
    """BatchNorm over the clips of all processes of torch.distributed's default group.

    With mean and var over all N, T, H, W of all processes, for each channel:
        y = (x - mean) / sqrt(var + eps) * weight + bias        (biased variance)
    Each process sends its count, mean and squared deviations, which are put together without a
    difference of large numbers; the gradients of the two statistics are added over the processes.
    Batches may differ in size. Running statistics come out equal on every process. Without a
    process group, or with one process, this is BatchNorm3d. Arguments and keys are BatchNorm3d's.

    torch's SyncBatchNorm computes the same on GPUs and refuses the CPU.

    In training every process has to call it as often as the others, forward and backward, or they
    wait for each other. Evaluation does not communicate. While precise statistics are computed it
    normalizes as in training.

    Shape:
        input   (N, C, T, H, W), N at least 1, any floating point dtype
        output  same shape, dtype and layout; statistics are float32 for half precision

    Raises:
        NormalizerError: An input is not (N, C, T, H, W).

    Source: Peng et al., "MegDet: A Large Mini-Batch Object Detector", CVPR 2018, arXiv:1711.07240.
        The statistics are pooled as in Chan, Golub and LeVeque, "Updating formulae and a pairwise
        algorithm for computing sample variances", 1979.
    """

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the input (N, C, T, H, W) normalized and activated."""
        if not self.training or not _has_other_processes():
            return super().forward(input, residual)
        self._check_input_dim(input)
        x, mean_NC, var_NC = compute_moments(input)
        mean_C1, var_C1 = pool_moments(mean_NC.T, var_NC.T, 1)
        count = x.numel() // x.shape[1]
        mean_C, var_C, total = _PoolProcesses.apply(mean_C1[:, 0], var_C1[:, 0], count)  # pyright: ignore[reportGeneralTypeIssues] (torch types apply as Any | None)
        self._update_running_statistics(mean_C, var_C, total)
        scale_C = (var_C + self.eps).rsqrt() * self.weight
        shift_C = self.bias - mean_C * scale_C
        y = scale_and_shift(x, scale_C[None], shift_C[None])
        return finish(y, self.activation, residual)


def _has_other_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _PoolProcesses(torch.autograd.Function):
    """From mean and biased variance (C,) of this process to those of all, and their count."""

    @staticmethod
    def forward(
        ctx: Any, mean_C: torch.Tensor, var_C: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        own = torch.cat([mean_C.double(), var_C.double(), mean_C.new_tensor([count]).double()])
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own)
        num_channels = len(mean_C)
        mean_PC, var_PC, count_P1 = torch.stack(gathered).split(
            [num_channels, num_channels, 1], dim=1
        )
        share_P1 = count_P1 / count_P1.sum()
        pooled_mean_C = (share_P1 * mean_PC).sum(0)
        pooled_var_C = (share_P1 * (var_PC + (mean_PC - pooled_mean_C).square())).sum(0)
        # Of the mean of all, this process's mean is off by so much.
        ctx.save_for_backward((mean_C - pooled_mean_C).to(mean_C.dtype))
        ctx.share = count / count_P1.sum().to(mean_C.dtype)
        total = count_P1.sum()
        ctx.mark_non_differentiable(total)
        return pooled_mean_C.to(mean_C.dtype), pooled_var_C.to(var_C.dtype), total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (offset_C,) = ctx.saved_tensors
        # Every process's loss depends on the statistics of all.
        gradients_2C = torch.stack(grad_outputs[:2])
        dist.all_reduce(gradients_2C)
        dmean_C, dvar_C = ctx.share * gradients_2C
        # The pooled mean moves too, but around a mean the deviations have no slope.
        return dmean_C + 2 * offset_C * dvar_C, dvar_C, None
