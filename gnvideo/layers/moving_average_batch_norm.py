"""MovingAverageBatchNorm3d (MABN) and the centered convolution in front of it.

Axes: N clips, C channels, T frames, H height, W width; M batches of the histories.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gnvideo.errors import NormalizerError
from gnvideo.layers.adjusted_conv import AdjustedConv3d
from gnvideo.layers.groups import check_count
from gnvideo.layers.normalizer import Normalizer3d, finish
from gnvideo.ops.activation import Activation
from gnvideo.ops.moments import compute_moments
from gnvideo.ops.scale_shift import scale_and_shift

_MAX_CORRECTION = 5.0


class CenteredConv3d(AdjustedConv3d):
    """A convolution by weights of mean 0 in each output channel.

    With S(o) the weights of output channel o, over C_in / groups and T, H, W of the kernel:
        weight used = weight - mean_S
    It keeps the mean of the activations near 0, which the normalizer behind it does not subtract.

    Raises:
        NormalizerError: An output channel has a single weight, which is its mean.

    Source: Yan et al., "Towards Stabilizing Batch Statistics in Backward Propagation of Batch
        Normalization", ICLR 2020, sec. 4.2.
    """

    def __init__(self, *arguments: Any, **named_arguments: Any) -> None:
        super().__init__(*arguments, **named_arguments)
        if self.weight[0].numel() == 1:
            raise NormalizerError(
                f"weight centralization got a kernel of shape {tuple(self.weight.shape)}: one "
                f"weight an output channel, which would become 0; choose another normalizer"
            )

    def compute_weight(self) -> torch.Tensor:
        """Returns the centered weight (C_out, C_in / groups, T, H, W)."""
        return self.weight - self.weight.mean((1, 2, 3, 4), keepdim=True)


class MovingAverageBatchNorm3d(Normalizer3d):
    """Divides by the root mean square of the last batches; the backward pass averages as well.

    With q_t = mean of x^2 over N, T, H, W of batch t and s = sqrt(. + eps), for each channel:
        v = mean of q over the last M batches, this one included
        r = clip(s(v) / s(running_mean_square), 1/5, 5)     constant for the gradient
        y = r * x / s(v) * weight + bias
        running_mean_square += momentum * (v - running_mean_square)
    The gradient of x is that of BatchNorm without a mean, with a moving average in place of the
    batch's own term. With g the gradient of x / s(v) and p_t = mean of g * x / s(v):
        dx = (g - x / s(v) * mean of p over the last M batches) / s(v)
    Weight and bias have their usual gradients. Evaluation divides by s(running_mean_square).

    The start: the means are over as many batches as there were, running_mean_square starts with
    the first batch's v, and r is 1 until the history was full. The authors' code normalizes by the
    batch alone until then and keeps r at 1 for 100 to 1000 batches; it has momentum 0.02.

    A history is not of one set of weights, so it is state: `square_history` and `gradient_history`
    (M, C) are buffers, each with its own count, and a resumed run goes on as one never stopped.
    Accumulated batches count one by one. Training already normalizes by averages, so there are no
    precise statistics to recompute. The mean is left to `CenteredConv3d`.

    Shape:
        input   (N, C, T, H, W), any floating point dtype, contiguous or channels_last_3d
        output  same shape, dtype and layout; statistics are float32 for half precision, and
                `torch.autocast` changes nothing

    Args:
        num_channels: C.
        history_batches: M.
        eps: Added to the mean square.
        momentum: Weight of the newest batch in running_mean_square.
        activation: What follows the normalization.

    Raises:
        NormalizerError: C or M is not a positive integer, or an input is not (N, C, T, H, W).

    Source: Yan et al., "Towards Stabilizing Batch Statistics in Backward Propagation of Batch
        Normalization", ICLR 2020 (openreview SkgGjRVKDS); definition as in MABN.py of
        megvii-model/MABN.
    """

    running_mean_square: torch.Tensor
    square_history: torch.Tensor
    num_batches_tracked: torch.Tensor
    gradient_history: torch.Tensor
    num_gradients_tracked: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        history_batches: int = 16,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        activation: Activation = None,
    ) -> None:
        super().__init__(check_count("num_channels", num_channels), activation)
        self.history_batches = check_count("history_batches", history_batches)
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.register_buffer("running_mean_square", torch.empty(num_channels))
        self.register_buffer("square_history", torch.empty(history_batches, num_channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.register_buffer("gradient_history", torch.empty(history_batches, num_channels))
        self.register_buffer("num_gradients_tracked", torch.tensor(0))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets weight and running_mean_square to 1, bias to 0, and empties the histories."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.running_mean_square.fill_(1)
        for buffer in (self.square_history, self.gradient_history):
            buffer.zero_()
        for count in (self.num_batches_tracked, self.num_gradients_tracked):
            count.zero_()

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        self.check_input(x)
        if self.training:
            y = self._normalize_in_training(x)
        else:
            y = functional.batch_norm(
                x,
                torch.zeros_like(self.running_mean_square),
                self.running_mean_square,
                self.weight,
                self.bias,
                eps=self.eps,
            )
        return finish(y, self.activation, residual)

    def _normalize_in_training(self, input: torch.Tensor) -> torch.Tensor:
        x, mean_NC, var_NC = compute_moments(input)
        square_C = (var_NC + mean_NC.square()).mean(0)
        moving_square_C, correction_C = self._take_batch(square_C.detach())
        scale_C: Any = _MovingScale.apply(
            square_C,
            self.weight,
            moving_square_C,
            correction_C,
            self.gradient_history,
            self.num_gradients_tracked,
            x.numel() // x.shape[1],
            self.eps,
        )
        return scale_and_shift(x, scale_C[None], self.bias[None])

    @torch.no_grad()
    def _take_batch(self, square_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns v and r (C,), and moves the running mean square."""
        is_first = self.num_batches_tracked == 0
        was_full = self.num_batches_tracked >= self.history_batches
        moving_C = _average_with_history(square_C, self.square_history, self.num_batches_tracked)
        ratio_C = ((moving_C + self.eps) / (self.running_mean_square + self.eps)).sqrt()
        ratio_C = ratio_C.clamp(1 / _MAX_CORRECTION, _MAX_CORRECTION)
        correction_C = torch.where(was_full, ratio_C, torch.ones_like(ratio_C))
        moved_C = self.running_mean_square.lerp(moving_C, self.momentum)
        self.running_mean_square.copy_(torch.where(is_first, moving_C, moved_C))
        return moving_C, correction_C

    def extra_repr(self) -> str:
        """Returns the channels and settings for the module's text."""
        return (
            f"{self.num_channels}, history_batches={self.history_batches}, eps={self.eps}, "
            f"momentum={self.momentum}"
        )


def _average_with_history(
    newest_C: torch.Tensor, history_MC: torch.Tensor, count: torch.Tensor
) -> torch.Tensor:
    """Returns the mean of the last M values, or of all if fewer; the newest replaces the oldest.

    `count`, a tensor so that no device is waited for, goes up by 1.
    """
    num_kept = len(history_MC)
    history_MC.index_copy_(0, (count % num_kept)[None], newest_C[None].to(history_MC.dtype))
    count += 1
    # Places that were never filled hold 0.
    return history_MC.sum(0) / count.clamp(max=num_kept)


class _MovingScale(torch.autograd.Function):
    """weight * r / s(v), whose slope by q is a moving average's.

    x's gradient of its part in q is 2 * x / count * dq, which with the dq below is the second part
    of dx in `MovingAverageBatchNorm3d`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        square_C: torch.Tensor,
        weight_C: torch.Tensor,
        moving_square_C: torch.Tensor,
        correction_C: torch.Tensor,
        gradient_history_MC: torch.Tensor,
        num_gradients: torch.Tensor,
        count: int,
        eps: float,
    ) -> torch.Tensor:
        inverse_C = (moving_square_C + eps).rsqrt()
        ctx.save_for_backward(weight_C, inverse_C, correction_C)
        # Not saved for the backward pass, which writes them.
        ctx.gradient_history_MC = gradient_history_MC
        ctx.num_gradients = num_gradients
        ctx.count = count
        return weight_C * correction_C * inverse_C

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # dscale is the sum of dy * x.
        (dscale_C,) = grad_outputs
        weight_C, inverse_C, correction_C = ctx.saved_tensors
        slope_C = correction_C * inverse_C
        product_C = weight_C * slope_C * dscale_C / ctx.count
        moving_C = _average_with_history(product_C, ctx.gradient_history_MC, ctx.num_gradients)
        dsquare_C = -ctx.count / 2 * inverse_C.square() * moving_C
        return dsquare_C, dscale_C * slope_C, None, None, None, None, None, None
