"""From decoded frames to clips of the network's input size: uint8 in, uint8 out.

Clips stay uint8 until they are on the device, where `normalize_clips` makes the network's input; so
four times fewer bytes are moved.

Axes: N clips, C colour channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

Crop = Literal["full", "center"]


@dataclass(frozen=True, slots=True)
class Placement:
    """What becomes of all frames of a clip, in this order; in pixels.

    Attributes:
        height: Of the frames after resizing; `width` likewise.
        width: See `height`.
        top: First line of the crop.
        left: First column of the crop.
        crop_height: Lines of the crop; `crop_width` likewise.
        crop_width: See `crop_height`.
        is_flipped: Whether left and right are exchanged.
    """

    height: int
    width: int
    top: int
    left: int
    crop_height: int
    crop_width: int
    is_flipped: bool = False


@dataclass(frozen=True, slots=True)
class TrainTransform:
    """Random size, crop and mirroring, one draw for all frames of a clip.

    The short side becomes a random integer of `short_side_range_pixels`, both ends included, and a
    square is cut out at random.

    Attributes:
        crop_pixels: Side of the square.
        short_side_range_pixels: (lowest, highest); (256, 320) for a crop of 224 in the paper.
        flip_probability: Of left-right mirroring.

    Raises:
        ValueError: the crop does not fit in the smallest frame, or a value is out of range.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, sec. 4.1.
    """

    crop_pixels: int
    short_side_range_pixels: tuple[int, int]
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        lowest, highest = self.short_side_range_pixels
        if not 1 <= self.crop_pixels <= lowest <= highest:
            raise ValueError(
                f"crop_pixels {self.crop_pixels} and short_side_range_pixels"
                f" {self.short_side_range_pixels} must satisfy 1 <= crop <= lowest <= highest"
            )
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability is {self.flip_probability}; it must be from 0 to 1")

    def __call__(
        self, frames_THWC: npt.NDArray[np.uint8], generator: np.random.Generator
    ) -> torch.Tensor:
        """Returns the clip (C, T, crop, crop), a view of memory in the order T, H, W, C."""
        _, height, width, _ = frames_THWC.shape
        return place_frames(frames_THWC, self.draw(height, width, generator))

    def draw(self, height: int, width: int, generator: np.random.Generator) -> Placement:
        """Returns what becomes of frames of `height` times `width` pixels.

        Draws four numbers from `generator`, always in this order: short side, top, left, flip.
        """
        lowest, highest = self.short_side_range_pixels
        short_side = int(generator.integers(lowest, highest + 1))
        height, width = compute_resized_size(height, width, short_side)
        top = int(generator.integers(0, height - self.crop_pixels + 1))
        left = int(generator.integers(0, width - self.crop_pixels + 1))
        is_flipped = bool(generator.random() < self.flip_probability)
        crop = self.crop_pixels
        return Placement(height, width, top, left, crop, crop, is_flipped)

    def compute_clip_shape(self, num_frames: int) -> tuple[int, int, int, int]:
        """Returns (T, crop, crop, C)."""
        return num_frames, self.crop_pixels, self.crop_pixels, 3


@dataclass(frozen=True, slots=True)
class TestTransform:
    """Fixed size and, if asked for, the square in the middle; nothing random.

    Attributes:
        short_side_pixels: Length of the short side after resizing.
        crop: "full" keeps the whole frame, "center" cuts a square out of its middle.
        crop_pixels: Side of the square; None with "full".

    Raises:
        ValueError: a value is out of range, or `crop_pixels` does not go with `crop`.
    """

    # Keeps pytest from taking the class for tests where it is imported.
    __test__ = False

    short_side_pixels: int
    crop: Crop
    crop_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.crop not in ("full", "center"):
            raise ValueError(f"crop is {self.crop!r}; choose 'full' or 'center'")
        if self.short_side_pixels < 1:
            raise ValueError(f"short_side_pixels is {self.short_side_pixels}; it must be positive")
        if self.crop == "center" and not 1 <= (self.crop_pixels or 0) <= self.short_side_pixels:
            raise ValueError(
                f"crop_pixels is {self.crop_pixels}; a center crop needs 1 to short_side_pixels,"
                f" {self.short_side_pixels}"
            )
        if self.crop == "full" and self.crop_pixels is not None:
            raise ValueError(f"crop_pixels is {self.crop_pixels}; leave it out with crop 'full'")

    def __call__(self, frames_THWC: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Returns the clip (C, T, H', W'), a view of memory in the order T, H, W, C."""
        _, height, width, _ = frames_THWC.shape
        return place_frames(frames_THWC, self.place(height, width))

    def place(self, height: int, width: int) -> Placement:
        """Returns what becomes of frames of `height` times `width` pixels."""
        height, width = compute_resized_size(height, width, self.short_side_pixels)
        if self.crop_pixels is None:
            return Placement(height, width, 0, 0, height, width)
        top, left = (height - self.crop_pixels) // 2, (width - self.crop_pixels) // 2
        return Placement(height, width, top, left, self.crop_pixels, self.crop_pixels)


def compute_resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Returns (height, width) with the short side `short_side` and the long side rounded down."""
    if height <= width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def normalize_clips(
    clips_NCTHW: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Returns (clips / 255 - mean) / std in `dtype`, on the clips' device and in their layout.

    Args:
        clips_NCTHW: 0 to 255, (N, 3, T, H, W) or any shape with the colour axis second; changed in
            place where it is float32.
        mean: One number a colour, of values scaled to [0, 1].
        std: One number a colour, on the same scale.
        dtype: Of the result; the arithmetic is float32.
    """
    shape = (1, -1, *(1,) * (clips_NCTHW.ndim - 2))
    # Not made on the device, which would wait for all work queued there.
    means, stds = (
        torch.tensor(values, dtype=torch.float32)
        .view(shape)
        .to(clips_NCTHW.device, non_blocking=True)
        for values in (mean, std)
    )
    return clips_NCTHW.float().div_(255).sub_(means).div_(stds).to(dtype)


def place_frames(frames_THWC: npt.NDArray[np.uint8], placement: Placement) -> torch.Tensor:
    """Returns the clip (C, T, H', W'), a view of memory in the order T, H, W, C.

    Of frames that have their size already, nothing is copied unless they are mirrored.
    """
    clip_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    size = (placement.height, placement.width)
    if clip_TCHW.shape[-2:] != size:
        clip_TCHW = functional.interpolate(
            clip_TCHW, size=size, mode="bilinear", align_corners=False, antialias=True
        )
    clip_TCHW = clip_TCHW.narrow(2, placement.top, placement.crop_height)
    clip_TCHW = clip_TCHW.narrow(3, placement.left, placement.crop_width)
    if placement.is_flipped:
        clip_TCHW = clip_TCHW.flip(-1)
    return clip_TCHW.permute(1, 0, 2, 3)
