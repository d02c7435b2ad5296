"""What a normalizer is. Which ones there are by name stands in `catalog.py`.

Initialization, weight decay, freezing, conversion and reports all ask here, so that no rule holds
for BatchNorm alone.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn
from torch.nn.modules.batchnorm import (
    _BatchNorm,  # pyright: ignore[reportPrivateUsage] (torch's only common base of its batch norms)
    _NormBase,  # pyright: ignore[reportPrivateUsage] (torch's only common base of batch and instance norms)
)

from gnvideo.errors import NormalizerError
from gnvideo.ops.activation import Activation, activate_, add_and_activate_
from gnvideo.ops.recomputation import is_recording, recompute_in_backward


class Normalizer3d(nn.Module):
    """Base of gnvideo's normalizers that are no subclass of torch's batch norms.

    A normalizer applies the activation after it by itself. So one that brings a nonlinearity of its
    own stands where another one and its ReLU stand, and the network does not know. With a residual
    it adds that, and a ReLU is what follows, whichever normalizer it is. A subclass defines
    `forward`, which ends with `finish`, with an operator that does the same, or with its own
    nonlinearity, and `reset_parameters`, which sets each parameter and buffer to its start:
    `weight`, the last scale, to 1.

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

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns x (N, C, T, H, W) normalized and activated, in its shape, dtype and layout.

        With a residual of x's shape: relu(normalized x + residual).
        """
        raise NotImplementedError

    def check_input(self, x: torch.Tensor) -> None:
        """Returns nothing.

        Raises:
            NormalizerError: x is not (N, C, T, H, W).
        """
        if x.ndim != 5 or x.shape[1] != self.num_channels:
            raise NormalizerError(
                f"{type(self).__name__} of {self.num_channels} channels got an input of shape "
                f"{tuple(x.shape)}; it takes (N, {self.num_channels}, T, H, W)"
            )


def get_final_activation(activation: Activation, residual: torch.Tensor | None) -> Activation:
    """Returns what follows: a residual sum is followed by ReLU, else what the normalizer has."""
    return activation if residual is None else "relu"


def finish(
    y: torch.Tensor, activation: Activation, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns what follows the normalized y, in y's own memory: give a tensor nobody else needs."""
    if residual is None and activation is not None and is_recording():
        # y is made again, too, where the operator that made it says how.
        return recompute_in_backward(_activate_copy, y, activation)
    return add_and_activate_(y, residual, get_final_activation(activation, residual))


def _activate_copy(y: torch.Tensor, activation: Activation) -> torch.Tensor:
    # Copied first: torch.relu would give a map of one position other strides, and then another
    # kernel might convolve it and round in another way.
    return activate_(y.clone(), activation)


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
    """Returns a model's normalizers by kind, such as `17 GroupNorm3d (32 groups)`.

    Where channels per group were asked for, these stand in place of the groups, whose number then
    differs from layer to layer.
    """
    counts = Counter(describe_kind(m) for m in model.modules() if is_normalizer(m))
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "none"


def describe_kind(normalizer: nn.Module) -> str:
    """Returns a normalizer's kind in reports, such as `GroupNorm3d (32 groups)`."""
    return type(normalizer).__name__ + _describe_groups(normalizer)


def _describe_groups(module: nn.Module) -> str:
    num_groups = getattr(module, "num_groups", None)
    if num_groups is None:
        return ""
    if getattr(module, "channels_per_group", None) is None:
        groups = "1 group" if num_groups == 1 else f"{num_groups} groups"
    else:
        num_channels = module.num_channels
        assert isinstance(num_channels, int)
        width = num_channels // num_groups
        groups = "1 channel a group" if width == 1 else f"{width} channels a group"
    return f" ({groups}, per frame)" if getattr(module, "per_frame", False) else f" ({groups})"
