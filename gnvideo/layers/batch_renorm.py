"""BatchRenorm3d: BatchNorm whose output in training is moved towards that in evaluation.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import TypeVar

import torch

from gnvideo.errors import NormalizerError
from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.normalizer import get_final_activation
from gnvideo.ops.activation import Activation
from gnvideo.ops.batch_norm import batch_norm_act
from gnvideo.ops.moments import compute_batch_moments

Number = TypeVar("Number", int, float)


class BatchRenorm3d(BatchNorm3d):
    """Normalizes by the batch, then corrects towards the running statistics, within bounds.

    With mean_B and sigma_B = sqrt(var_B + eps) of the batch (biased variance), and mean and sigma
    the running ones before this batch:
        r = clip(sigma_B / sigma, 1 / R, R)           constant for the gradient
        d = clip((mean_B - mean) / sigma, -D, D)      constant for the gradient
        y = ((x - mean_B) / sigma_B * r + d) * weight + bias
    Unclipped, y is BatchNorm's output in evaluation. The bounds follow the number t of batches that
    this layer has counted before, with `hold_steps` as h:
        R(t) = 1 up to h, linear to max_scale at max(scale_steps, h + 1), then max_scale
        D(t) = 0 up to h, linear to max_shift at max(shift_steps, h + 1), then max_shift
    So the first batch is always BatchNorm's. Accumulated batches count one by one.

    The paper's moving averages are of the mean and of sigma:
        mean += momentum * (mean_B - mean);  sigma += momentum * (sigma_B - sigma)
    Kept are running_mean and running_var = sigma^2 - eps, so that evaluation and checkpoints are
    BatchNorm3d's. The paper's momentum is 0.01. While precise statistics are computed, r and d are
    those of training, towards the running statistics that are to be replaced.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        max_scale: Final R.
        max_shift: Final D.
        hold_steps: Batches as plain BatchNorm, h.
        scale_steps: Batches after which R is final.
        shift_steps: Batches after which D is final.
        activation: What follows the normalization.

    Raises:
        NormalizerError: max_scale is below 1, max_shift or a number of steps below 0, or an input
            is not (N, C, T, H, W).
        ValueError: In training, a channel has a single value: N, T, H and W are all 1.

    Source: Ioffe, "Batch Renormalization", NIPS 2017, Algorithm 1 and sec. 4, arXiv:1702.03275.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        max_scale: float = 3.0,
        max_shift: float = 5.0,
        hold_steps: int = 5_000,
        scale_steps: int = 40_000,
        shift_steps: int = 25_000,
        activation: Activation = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, activation=activation)
        self.max_scale = _check_at_least(1, "max_scale", max_scale)
        self.max_shift = _check_at_least(0, "max_shift", max_shift)
        self.hold_steps = _check_at_least(0, "hold_steps", hold_steps)
        self.scale_steps = _check_at_least(0, "scale_steps", scale_steps)
        self.shift_steps = _check_at_least(0, "shift_steps", shift_steps)

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the input (N, C, T, H, W) normalized and activated."""
        if not self.training:
            return super().forward(input, residual)
        self._check_input_dim(input)
        scale_C, shift_C = self._take_batch(input)
        # A weight and a bias that hold r and d: the gradients are those of the formula.
        weight = self.weight * scale_C
        bias = self.weight * shift_C + self.bias
        return batch_norm_act(
            input,
            None,
            None,
            weight,
            bias,
            training=True,
            eps=self.eps,
            residual=residual,
            activation=get_final_activation(self.activation, residual),
            implementation=self.implementation,
        )

    @torch.no_grad()
    def _take_batch(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns r and d (C,), and moves the running statistics if they are tracked."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean_C, var_C = compute_batch_moments(x)
        mean_C = mean_C.to(self.running_mean.dtype)
        batch_sigma_C = (var_C.to(self.running_var.dtype) + self.eps).sqrt()
        sigma_C = (self.running_var + self.eps).sqrt()
        max_scale = 1 + (self.max_scale - 1) * self._get_progress(self.scale_steps)
        max_shift = self.max_shift * self._get_progress(self.shift_steps)
        scale_C = (batch_sigma_C / sigma_C).clamp(1 / max_scale, max_scale)
        shift_C = ((mean_C - self.running_mean) / sigma_C).clamp(-max_shift, max_shift)
        if self.track_running_stats:
            self.running_mean.lerp_(mean_C, self.momentum)
            sigma_C.lerp_(batch_sigma_C, self.momentum)
            # Rounding leaves a constant channel's variance a little below 0.
            self.running_var.copy_((sigma_C.square() - self.eps).clamp(min=0))
            self.num_batches_tracked += 1
        return scale_C, shift_C

    def _get_progress(self, last_step: int) -> torch.Tensor:
        """Returns how far the bounds are open, 0 to 1; a tensor, so that no device waits."""
        num_steps = max(last_step - self.hold_steps, 1)
        assert self.num_batches_tracked is not None
        progress = (self.num_batches_tracked - self.hold_steps) / num_steps
        return progress.clamp(0, 1)

    def extra_repr(self) -> str:
        """Returns BatchNorm3d's text and the schedule of the bounds."""
        return (
            f"{super().extra_repr()}, max_scale={self.max_scale}, max_shift={self.max_shift}, "
            f"hold_steps={self.hold_steps}, scale_steps={self.scale_steps}, "
            f"shift_steps={self.shift_steps}"
        )


def _check_at_least(least: int, name: str, value: Number) -> Number:
    if value < least:
        raise NormalizerError(
            f"batch renormalization's {name} is {value}; it must be at least {least}"
        )
    return value
