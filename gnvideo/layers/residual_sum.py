"""What ends a residual block, whatever stands in the normalizer's place."""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.normalizer import Normalizer3d


def normalize_and_add(
    normalizer: nn.Module, x: torch.Tensor, residual: torch.Tensor
) -> torch.Tensor:
    """Returns relu(normalizer(x) + residual), by one operator where the normalizer has one.

    Args:
        normalizer: One of gnvideo's, or what has taken its place, such as torch's own or nothing
            where it was fused into a convolution.
        x: (N, C, T, H, W).
        residual: Of x's shape.
    """
    if isinstance(normalizer, Normalizer3d | BatchNorm3d):
        return normalizer(x, residual)
    return torch.relu_(normalizer(x) + residual)
