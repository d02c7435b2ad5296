"""BatchNorm3d with the activation after it.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers.normalizer import get_final_activation
from gnvideo.ops.activation import Activation
from gnvideo.ops.batch_norm import batch_norm_act
from gnvideo.ops.recomputation import is_running_again


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
        implementation: A name in `gnvideo.ops.implementation.IMPLEMENTATIONS`.

    Raises:
        NormalizerError: An input is not (N, C, T, H, W).
        ValueError: In training, a channel has a single value: N, T, H and W are all 1.

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        activation: Activation = None,
        implementation: str = "auto",
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.activation: Activation = activation
        self.implementation = implementation

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the input (N, C, T, H, W) normalized and activated.

        With a residual of its shape: relu(normalized input + residual).
        """
        self._check_input_dim(input)
        is_tracked = self.training and self.track_running_stats
        momentum = self.momentum
        if is_tracked:
            assert self.num_batches_tracked is not None
            # A forward pass that is run again is the same batch. In place, since assigning a buffer
            # costs more than adding to it.
            if not is_running_again():
                self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / self.num_batches_tracked.item()
        uses_running = is_tracked or not self.training
        return batch_norm_act(
            input,
            self.running_mean if uses_running else None,
            self.running_var if uses_running else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            0.0 if momentum is None else momentum,
            self.eps,
            residual,
            get_final_activation(self.activation, residual),
            self.implementation,
        )

    @torch.no_grad()
    def _update_running_statistics(
        self, mean_C: torch.Tensor, var_C: torch.Tensor, num_elements: int | torch.Tensor
    ) -> None:
        """Counts a batch of mean and biased variance (C,), if running statistics are tracked.

        Args:
            mean_C: The batch's mean.
            var_C: Its biased variance.
            num_elements: Elements that each of these is over.
        """
        if not self.track_running_stats or is_running_again():
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        # A single element has the variance 0, unbiased or not.
        excess = num_elements - 1
        divisor = excess.clamp(min=1) if isinstance(excess, torch.Tensor) else max(excess, 1)
        unbiased_var_C = var_C * (num_elements / divisor)
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_var_C.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.ndim != 5 or input.shape[1] != self.num_features:
            raise NormalizerError(
                f"{type(self).__name__} of {self.num_features} channels got an input of shape "
                f"{tuple(input.shape)}; it takes (N, {self.num_features}, T, H, W)"
            )
