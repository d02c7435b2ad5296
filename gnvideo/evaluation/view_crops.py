"""The squares of a frame that are views of their own, cut when the model needs them.

A clip is held once, as a whole; its three overlapping squares are slices of it.

Axes: C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Crop = Literal["full", "center", "three"]
"""The whole frame, the middle square of the training size, or three squares of the short side.

The loader makes the first two; the squares of the third are cut by `cut_view`.
"""

CROPS_PER_CLIP = {"full": 1, "center": 1, "three": 3}


def cut_view(clip_CTHW: Tensor, number: int) -> Tensor:
    """Returns square `number`, 0 to 2, of a clip: left, centre or right, or top, centre or bottom.

    Its side is the clip's short side, and it is not copied. The centre one is half a pixel late
    where it cannot be exact.

    Source: facebookresearch/SlowFast, slowfast/datasets/transform.py, and pytorchvideo 0.1.5: both
    uniform_crop.
    """
    _, _, height, width = clip_CTHW.shape
    side = min(height, width)
    top = (0, (height - side + 1) // 2, height - side)[number]
    left = (0, (width - side + 1) // 2, width - side)[number]
    return clip_CTHW[:, :, top : top + side, left : left + side]
