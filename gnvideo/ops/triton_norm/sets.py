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


class Wanted(NamedTuple):
    """Which gradients are wanted."""

    x: bool
    weight: bool
    bias: bool
    residual: bool


def find_sets(mean: torch.Tensor) -> Sets:
    """Returns what shares a mean (N, G), or (C,) of all clips."""
    return Sets(mean.shape[-1], joins_clips=mean.ndim == 1)
