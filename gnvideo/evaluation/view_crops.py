"""The squares of a frame that are views of their own, cut when the model needs them.

A clip is held once, as a whole; its three overlapping squares are slices of it.

Axes: V views, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Crop = Literal["full", "center", "three"]

_CROPS_PER_CLIP = {"full": 1, "center": 1, "three": 3}


def count_crops(crop: Crop) -> int:
    """Returns how many views `crop` makes of each clip."""
    return _CROPS_PER_CLIP[crop]


def compute_view_size(height: int, width: int, crop: Crop) -> tuple[int, int]:
    """Returns (height, width) of the views of clips of this size."""
    side = min(height, width)
    return (side, side) if crop == "three" else (height, width)


def cut_view(clip_CTHW: Tensor, crop: Crop, number: int) -> Tensor:
    """Returns view `number` of a clip, from 0, without a copy.

    With "three", the views are squares as large as the short side allows, at the start, the middle
    and the end of the long side: left, centre and right, or top, centre and bottom. The middle one
    is half a pixel late where it cannot be exact. With "full" and "center" the clip itself, which
    the loader has cut already, is the one view.

    Source: facebookresearch/SlowFast, slowfast/datasets/transform.py, and pytorchvideo 0.1.5: both
    uniform_crop. mmaction2's ThreeCrop differs by one pixel where what is cut off is odd.
    """
    if crop != "three":
        return clip_CTHW
    _, _, height, width = clip_CTHW.shape
    side = min(height, width)
    top = (0, (height - side + 1) // 2, height - side)[number]
    left = (0, (width - side + 1) // 2, width - side)[number]
    return clip_CTHW[:, :, top : top + side, left : left + side]
