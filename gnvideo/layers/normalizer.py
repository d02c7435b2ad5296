"""What a normalizer is. Which ones there are by name stands in `catalog.py`.

Initialization, weight decay, freezing, conversion and reports all ask here, so that no rule holds
for BatchNorm alone.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import (
    _BatchNorm,  # pyright: ignore[reportPrivateUsage] (torch's only common base of its batch norms)
    _NormBase,  # pyright: ignore[reportPrivateUsage] (torch's only common base of batch and instance norms)
)

Activation = Literal["relu"] | None
"""What follows the normalization; None is nothing."""


class Normalizer3d(nn.Module):
    """Base of gnvideo's normalizers that are no subclass of torch's batch norms.

    A normalizer applies the activation after it by itself. So one that brings a nonlinearity of its
    own stands where another one and its ReLU stand, and the network does not know. A subclass
    defines `forward`, which ends with `activate` or with its own nonlinearity, and
    `reset_parameters`, which sets each parameter and buffer to its start: `weight`, the last scale,
    to 1.

    Attributes:
        num_channels: C.
        activation: What follows the normalization.
    """

    def __init__(self, num_channels: int, activation: Activation) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.activation: Activation = activation

    def reset_parameters(self) -> None:
        """Sets every parameter and buffer to its start."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout."""
        raise NotImplementedError


def activate(y: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Returns y after the activation, in y's own memory: give a tensor that nobody else needs."""
    return torch.relu_(y) if activation == "relu" else y


_NORMALIZER_TYPES = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, Normalizer3d)


def is_normalizer(module: nn.Module) -> bool:
    """Returns whether the module's parameters are a normalizer's, such as its scale and offset.

    True for gnvideo's normalizers and for torch's: batch (synchronized too), instance, group, layer
    and RMS norms, and their subclasses.
    """
    return isinstance(module, _NORMALIZER_TYPES)


def has_running_statistics(module: nn.Module) -> bool:
    """Returns whether the module trains on the batch's statistics and evaluates on running ones.

    Those are what precise statistics replace: see `compute_precise_statistics`.
    """
    return isinstance(module, _BatchNorm) and module.track_running_stats


def describe_normalizers(model: nn.Module) -> str:
    """Returns a model's normalizers by kind, such as `17 GroupNorm3d (32 groups)`."""
    counts = Counter(describe_kind(m) for m in model.modules() if is_normalizer(m))
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "none"


def describe_kind(normalizer: nn.Module) -> str:
    """Returns a normalizer's kind in reports, such as `GroupNorm3d (32 groups)`."""
    num_groups = getattr(normalizer, "num_groups", None)
    groups = "" if num_groups is None else f" ({num_groups} groups)"
    return type(normalizer).__name__ + groups
