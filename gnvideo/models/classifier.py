"""What every model is: a video classifier with a forward for training and one for full frames.

Axes: N clips, C channels, T frames, H height, W width, K classes, P positions of the classifier on
a map.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from gnvideo.errors import ModelError

Size3 = tuple[int, int, int]


class Window(NamedTuple):
    """The sliding window of a convolution or pooling layer, each of its values as (T, H, W)."""

    kernel: Size3
    stride: Size3
    padding: Size3


class VideoClassifier(nn.Module):
    """A network from clips to class scores.

    A subclass sets what is below and defines `compute_feature_map`, `get_classifier`,
    `final_normalizers` and `list_blocks`.

    Attributes:
        num_classes: The number of classes.
        windows: The layers that change the size of the map, in order.
        position_pool: Size (T, H, W) of the feature map of a training clip: what the classifier
            averages over before it decides.
    """

    def __init__(self, num_classes: int, windows: Sequence[Window], train_clip: Size3) -> None:
        """Checks the settings; `train_clip` is (frames, height, width) of a training clip.

        Raises:
            ModelError: There is less than one class, or the training clip is too small.
        """
        super().__init__()
        if num_classes < 1:
            raise ModelError(f"num_classes is {num_classes}; a classifier needs at least 1")
        self.num_classes = num_classes
        self.windows = tuple(windows)
        self.position_pool = self.compute_map_size(train_clip)

    def compute_feature_map(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the last feature map (N, C, T, H, W)."""
        raise NotImplementedError

    def get_classifier(self) -> nn.Linear:
        """Returns the last layer, whose outputs are the logits."""
        raise NotImplementedError

    def classify(self, pooled_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, K, T, H, W) of each place of a pooled map, without dropout.

        A network that has more than the last layer after its pooling overrides this.
        """
        return self.get_classifier()(pooled_NCTHW.movedim(1, -1)).movedim(-1, 1)

    def final_normalizers(self) -> list[nn.Module]:
        """Returns the last normalizer of each residual block, whose scale starts at 0."""
        raise NotImplementedError

    def forward(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes) of float clips (N, 3, T, H, W).

        Raises:
            ModelError: The clips are too small for the network's strides.
            ValueError: From torch, in training with BatchNorm, if a feature map has a single value
                per channel (one clip whose map is 1 x 1 x 1): it has no variance.
        """
        raise NotImplementedError

    def compute_position_logits(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes, P) of the classifier at every position of the clips.

        Fully convolutional: the feature map is averaged over windows of the training map's size, at
        stride 1, and each window is classified, without dropout. A clip of the training size has
        one position. Where the map is smaller than the window, it is averaged whole.

        Raises:
            ModelError: The clips are too small for the network's strides.

        Source: Wang et al., "Non-local Neural Networks", CVPR 2018, sec. 4.1, arXiv:1711.07971.
        """
        feature_map = self.compute_feature_map(clips_NCTHW)
        window = [min(size) for size in zip(feature_map.shape[2:], self.position_pool, strict=True)]
        pooled_NCTHW = nn.functional.avg_pool3d(feature_map, window, stride=1)
        return self.classify(pooled_NCTHW).flatten(2)

    def list_blocks(self) -> list[nn.Module]:
        """Returns the blocks that a training step may compute again instead of keeping them.

        They do not contain each other, draw no random numbers, and hold most of the network.
        """
        raise NotImplementedError

    def compute_whole_logits(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes, 1) of the mean of the whole feature map.

        No dropout. For a clip of the training size they are those of its one position.

        Raises:
            ModelError: The clips are too small for the network's strides.
        """
        mean_NCTHW = self.compute_feature_map(clips_NCTHW).mean(dim=(2, 3, 4), keepdim=True)
        return self.classify(mean_NCTHW).flatten(2)

    def compute_map_size(self, clip: Size3) -> Size3:
        """Returns the size (T, H, W) of the last feature map of a clip of (frames, height, width).

        Raises:
            ModelError: Nothing of the clip is left somewhere in the network.
        """
        size = tuple(_slide(length, self.windows, axis) for axis, length in enumerate(clip))
        if min(size) < 1:
            least = [
                next(n for n in itertools.count(1) if _slide(n, self.windows, axis) >= 1)
                for axis in range(3)
            ]
            raise ModelError(
                f"a clip of {clip[0]} frames of {clip[1]} x {clip[2]} pixels is too small for "
                f"{type(self).__name__}; give at least {least[0]} frames of "
                f"{least[1]} x {least[2]} pixels"
            )
        return size  # pyright: ignore[reportReturnType] (one entry for each of the three axes)

    def check_clips(self, clips_NCTHW: torch.Tensor) -> None:
        """Raises ModelError if the clips are too small for the network's strides."""
        self.compute_map_size(clips_NCTHW.shape[2:])  # pyright: ignore[reportArgumentType] (T, H, W)


def _slide(length: int, windows: Sequence[Window], axis: int) -> int:
    """Returns the length that is left of `length` along one axis; 0 if a window does not fit."""
    for window in windows:
        length += 2 * window.padding[axis] - window.kernel[axis]
        if length < 0:
            return 0
        length = length // window.stride[axis] + 1
    return length


def check_settings(
    *, width: int, dropout_rate: float, num_frames: int, train_crop_pixels: int
) -> None:
    """Raises ModelError where a setting that all models share is out of its range."""
    for name, value in (
        ("width", width),
        ("num_frames", num_frames),
        ("train_crop_pixels", train_crop_pixels),
    ):
        if value < 1:
            raise ModelError(f"{name} is {value}; it must be a positive integer")
    if not 0 <= dropout_rate < 1:
        raise ModelError(f"dropout_rate is {dropout_rate}; it must be in [0, 1)")
