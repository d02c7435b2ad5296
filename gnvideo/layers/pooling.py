"""Max pooling that keeps no indices where activations are recomputed."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gnvideo.ops.recomputation import is_recording, keep_inputs_only

Size = int | tuple[int, int, int]


def max_pool3d(
    x: torch.Tensor,
    kernel_size: Size,
    stride: Size,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """Returns x (N, C, T, H, W) pooled, as torch's function does.

    For the backward pass torch keeps the input, the output and, for each output, an index of 8
    bytes. While activations are recomputed, only the input is kept, which may be recomputed itself,
    and the indices are found again. Values and gradients are equal, bit for bit.
    """
    pool = functools.partial(
        functional.max_pool3d,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
    )
    return keep_inputs_only(pool, x) if is_recording() else pool(x)


class MaxPool3d(nn.MaxPool3d):
    """torch's MaxPool3d by `max_pool3d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the input (N, C, T, H, W) pooled."""
        sizes: Any = (self.kernel_size, self.stride, self.padding, self.dilation)
        return max_pool3d(input, *sizes, ceil_mode=self.ceil_mode)


def replace_max_pools(network: nn.Module) -> None:
    """Puts a `MaxPool3d` of the same sizes in the place of each of torch's without indices."""
    for path, pool in list(network.named_modules()):
        if type(pool) is nn.MaxPool3d and not pool.return_indices:
            sizes: Any = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
            network.set_submodule(path, MaxPool3d(*sizes, ceil_mode=pool.ceil_mode))
