"""What shares statistics, which gradients are wanted, and by which kernels."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Variant = Literal["two-read", "one-read"]
"""One-read is for sets that fit the second-level cache; both give the same to the last bit."""


class Sets(NamedTuple):
    """What shares statistics: the groups of each clip, or the channels of all clips.

    Attributes:
        num_groups: G; C in batch normalization.
        joins_clips: Whether all clips share the statistics of a group.
    """

    num_groups: int
    joins_clips: bool


class Running(NamedTuple):
    """Running statistics (C,) that a batch's move; None are not tracked.

    Attributes:
        mean: Moves towards the batch's mean.
        var: Moves towards its unbiased variance.
        momentum: Weight of the batch.
    """

    mean: torch.Tensor | None
    var: torch.Tensor | None
    momentum: float


NOT_TRACKED = Running(None, None, 0.0)


class Wanted(NamedTuple):
    """Which gradients are wanted."""

    x: bool
    weight: bool
    bias: bool
    residual: bool


def find_sets(mean: torch.Tensor) -> Sets:
    """Returns what shares a mean (N, G), or (C,) of all clips."""
    return Sets(mean.shape[-1], joins_clips=mean.ndim == 1)
