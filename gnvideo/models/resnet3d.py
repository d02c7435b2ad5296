"""ResNet-3D: residual networks whose 3x3 convolutions are 3x3x3.

Depth 18 with width 64 has the layout and the parameter names of torchvision's `r3d_18`. R(2+1)D,
in `r2plus1d.py`, is the same network of other blocks and another stem.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import MaxPool3d, NormalizerFactory
from gnvideo.models.classifier import Size3, Window, check_settings
from gnvideo.models.residual import (
    ResidualBlock,
    ResidualClassifier,
    make_downsample,
    make_padded_conv,
)

STEM = Window((3, 7, 7), (1, 2, 2), (1, 3, 3))
_STEM_POOL = Window((1, 3, 3), (1, 2, 2), (0, 1, 1))
_SPATIAL_STRIDES = (1, 2, 2, 2)

_EXPANSION = 4


def make_resnet3d(
    depth: int,
    num_classes: int,
    make_normalizer: NormalizerFactory,
    *,
    width: int = 64,
    dropout_rate: float = 0.0,
    stem_pool: bool = False,
    temporal_strides: Sequence[int] = (1, 2, 2, 2),
    train_crop_pixels: int = 112,
    num_frames: int = 16,
) -> ResNet3D:
    """Returns a ResNet-3D.

    Args:
        depth: 10 or 18 or 34 (basic blocks; 10 has one in each stage) or 50 or 101
            (bottlenecks).
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        width: Channels of the first convolution; all others in proportion.
        dropout_rate: Dropout before the last layer.
        stem_pool: Whether a max pooling (1x3x3, stride 1,2,2) follows the first convolution.
        temporal_strides: Stride in time of each of the four stages.
        train_crop_pixels: Height and width of a training clip.
        num_frames: Frames of a training clip.

    Raises:
        ModelError: A setting is out of its range.

    Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR
        2018, sec. 3.3 (R3D), arXiv:1711.11248; Hara et al., "Can Spatiotemporal 3D CNNs Retrace the
        History of 2D CNNs and ImageNet?", CVPR 2018, table 1 (depths), arXiv:1711.09577.
    """
    if depth not in _DEPTHS:
        raise ModelError(f"depth is {depth}; a resnet3d has depth {', '.join(map(str, _DEPTHS))}")
    check_settings(
        width=width,
        dropout_rate=dropout_rate,
        num_frames=num_frames,
        train_crop_pixels=train_crop_pixels,
    )
    stem_windows = [STEM, _STEM_POOL] if stem_pool else [STEM]
    stem = nn.Sequential(
        make_normalizer.make_conv(3, width, *STEM),
        make_normalizer(width, "relu"),
        *(MaxPool3d(*window) for window in stem_windows[1:]),
    )
    return ResNet3D(
        _DEPTHS[depth],
        num_classes,
        make_normalizer,
        stem,
        stem_windows,
        width,
        dropout_rate,
        temporal_strides,
        (num_frames, train_crop_pixels, train_crop_pixels),
    )


class Layout(NamedTuple):
    """The kind of residual block and how many of them each stage has.

    Attributes:
        block: `(in_channels, inner_channels, stride, make_normalizer) -> block`.
        expansion: A block's output channels for one inner channel.
        num_blocks: Blocks of each stage.
    """

    block: Callable[[int, int, Size3, NormalizerFactory], ResidualBlock]
    expansion: int
    num_blocks: tuple[int, int, int, int]


class ResNet3D(ResidualClassifier):
    """A stem to `width` channels and four stages; see `make_resnet3d` and `make_r2plus1d`.

    Raises:
        ModelError: temporal_strides are not four positive integers, or as `VideoClassifier`.
    """

    def __init__(
        self,
        layout: Layout,
        num_classes: int,
        make_normalizer: NormalizerFactory,
        stem: nn.Sequential,
        stem_windows: Sequence[Window],
        width: int,
        dropout_rate: float,
        temporal_strides: Sequence[int],
        train_clip: Size3,
    ) -> None:
        if len(temporal_strides) != len(_SPATIAL_STRIDES) or min(temporal_strides) < 1:
            raise ModelError(
                f"temporal_strides is {tuple(temporal_strides)}; give four positive integers"
            )
        strides = [(t, s, s) for t, s in zip(temporal_strides, _SPATIAL_STRIDES, strict=True)]
        windows = [*stem_windows, *(Window((3, 3, 3), stride, (1, 1, 1)) for stride in strides)]
        super().__init__(num_classes, windows, train_clip)

        self.stem = stem
        stages: list[nn.Sequential] = []
        in_channels = width
        for stage, (num_blocks, stride) in enumerate(zip(layout.num_blocks, strides, strict=True)):
            inner_channels = width * 2**stage
            blocks: list[nn.Module] = []
            for block in range(num_blocks):
                block_stride = stride if block == 0 else (1, 1, 1)
                blocks.append(
                    layout.block(in_channels, inner_channels, block_stride, make_normalizer)
                )
                in_channels = inner_channels * layout.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = nn.Dropout(dropout_rate)
        self.fc = nn.Linear(in_channels, num_classes)

    def compute_feature_map(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the last feature map (N, C, T', H', W')."""
        self.check_clips(clips_NCTHW)
        x = self.layer1(self.stem(clips_NCTHW))
        return self.layer4(self.layer3(self.layer2(x)))


class BasicBlock(ResidualBlock):
    """Two convolutions, given, with their normalizers; the first has the stride."""

    def __init__(
        self,
        conv1: nn.Module,
        conv2: nn.Module,
        in_channels: int,
        inner_channels: int,
        stride: Size3,
        make_normalizer: NormalizerFactory,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv1, make_normalizer(inner_channels, "relu"))
        self.conv2 = nn.Sequential(conv2, make_normalizer(inner_channels))
        self.downsample = make_downsample(in_channels, inner_channels, stride, make_normalizer)

    @property
    def final_normalizer(self) -> nn.Module:
        """The normalizer whose output is added to the shortcut."""
        return self.conv2[1]

    def compute_branch(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the final normalizer takes."""
        return self.conv2[0](self.conv1(x))


def _make_basic_block(
    in_channels: int, inner_channels: int, stride: Size3, make_normalizer: NormalizerFactory
) -> BasicBlock:
    """Returns a block of two 3x3x3 convolutions."""
    conv1 = make_padded_conv(in_channels, inner_channels, (3, 3, 3), make_normalizer, stride)
    conv2 = make_padded_conv(inner_channels, inner_channels, (3, 3, 3), make_normalizer)
    return BasicBlock(conv1, conv2, in_channels, inner_channels, stride, make_normalizer)


class _Bottleneck(ResidualBlock):
    """1x1x1, then 3x3x3 with the stride, then 1x1x1."""

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        stride: Size3,
        make_normalizer: NormalizerFactory,
    ) -> None:
        out_channels = inner_channels * _EXPANSION
        super().__init__()
        self.conv1 = nn.Sequential(
            make_padded_conv(in_channels, inner_channels, (1, 1, 1), make_normalizer),
            make_normalizer(inner_channels, "relu"),
        )
        self.conv2 = nn.Sequential(
            make_padded_conv(inner_channels, inner_channels, (3, 3, 3), make_normalizer, stride),
            make_normalizer(inner_channels, "relu"),
        )
        self.conv3 = nn.Sequential(
            make_padded_conv(inner_channels, out_channels, (1, 1, 1), make_normalizer),
            make_normalizer(out_channels),
        )
        self.downsample = make_downsample(in_channels, out_channels, stride, make_normalizer)

    @property
    def final_normalizer(self) -> nn.Module:
        return self.conv3[1]

    def compute_branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3[0](self.conv2(self.conv1(x)))


_DEPTHS: Mapping[int, Layout] = MappingProxyType(
    {
        10: Layout(_make_basic_block, 1, (1, 1, 1, 1)),
        18: Layout(_make_basic_block, 1, (2, 2, 2, 2)),
        34: Layout(_make_basic_block, 1, (3, 4, 6, 3)),
        50: Layout(_Bottleneck, _EXPANSION, (3, 4, 6, 3)),
        101: Layout(_Bottleneck, _EXPANSION, (3, 4, 23, 3)),
    }
)
