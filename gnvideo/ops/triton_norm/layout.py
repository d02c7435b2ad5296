"""Which of a tensor's axes are adjacent in memory."""

from __future__ import annotations

from typing import Literal

import torch

Layout = Literal["channels_last", "contiguous"] | None
"""None is any other, and any with gaps between elements."""

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def find_layout(x: torch.Tensor) -> Layout:
    """Returns whether the channels or the positions of x (N, C, *) are adjacent, without gaps.

    The channels are in channels_last, in channels_last_3d and in a transposed (N, P, C). Of a
    single channel the positions are what is adjacent.
    """
    num_axes = x.ndim
    if x.shape[1] > 1 and (
        x.is_contiguous(memory_format=_FORMATS[num_axes])
        if num_axes in _FORMATS
        else x.movedim(1, -1).is_contiguous()
    ):
        return "channels_last"
    return "contiguous" if x.is_contiguous() else None
