"""The ResNet-50 I3D baseline of the GroupNorm paper's Kinetics experiments.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers import NormalizerFactory
from gnvideo.models.classifier import Size3, Window, check_settings
from gnvideo.models.residual import (
    ResidualBlock,
    ResidualClassifier,
    make_downsample,
    make_padded_conv,
)

# Whether the first convolution of each block is inflated to 3x1x1, stage by stage.
_TEMPORAL_BLOCKS = (
    (True, True, True),
    (True, False, True, False),
    (True, False, True, False, True, False),
    (False, True, False),
)

_EXPANSION = 4

_WINDOWS = (
    Window((5, 7, 7), (2, 2, 2), (2, 3, 3)),  # conv1
    Window((2, 3, 3), (2, 2, 2), (0, 0, 0)),  # maxpool1
    Window((2, 1, 1), (2, 1, 1), (0, 0, 0)),  # maxpool2
    Window((1, 3, 3), (1, 2, 2), (0, 1, 1)),  # layer2
    Window((1, 3, 3), (1, 2, 2), (0, 1, 1)),  # layer3
    Window((1, 3, 3), (1, 2, 2), (0, 1, 1)),  # layer4
)


def make_i3d_r50(
    num_classes: int,
    make_normalizer: NormalizerFactory,
    *,
    width: int = 64,
    dropout_rate: float = 0.5,
    train_crop_pixels: int = 224,
    num_frames: int = 32,
) -> I3DResNet50:
    """Returns the ResNet-50 I3D of Wang et al., which the GroupNorm paper trains on Kinetics.

    28.04 million parameters for 400 classes; 32.8 G multiply-accumulates for 32 x 224 x 224.

    Args:
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        width: Channels of the first convolution; all others in proportion.
        dropout_rate: Dropout before the last layer.
        train_crop_pixels: Height and width of a training clip.
        num_frames: Frames of a training clip.

    Raises:
        ModelError: A setting is out of its range, or the training clip is too small.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971; layer sizes as in
        its published code (first pooling 2x3x3 and second 2x1x1, both without padding; table 1 of
        the paper prints other kernels).
    """
    check_settings(
        width=width,
        dropout_rate=dropout_rate,
        num_frames=num_frames,
        train_crop_pixels=train_crop_pixels,
    )
    train_clip = (num_frames, train_crop_pixels, train_crop_pixels)
    return I3DResNet50(num_classes, make_normalizer, width, dropout_rate, train_clip)


class I3DResNet50(ResidualClassifier):
    """See `make_i3d_r50`."""

    def __init__(
        self,
        num_classes: int,
        make_normalizer: NormalizerFactory,
        width: int,
        dropout_rate: float,
        train_clip: Size3,
    ) -> None:
        super().__init__(num_classes, _WINDOWS, train_clip)
        conv1, maxpool1, maxpool2 = _WINDOWS[:3]
        self.conv1 = make_normalizer.make_conv(3, width, *conv1)
        self.norm1 = make_normalizer(width, "relu")
        self.maxpool1 = nn.MaxPool3d(*maxpool1)
        self.layer1 = _make_stage(0, width, width, make_normalizer)
        self.maxpool2 = nn.MaxPool3d(*maxpool2)
        self.layer2 = _make_stage(1, width * 4, width * 2, make_normalizer)
        self.layer3 = _make_stage(2, width * 8, width * 4, make_normalizer)
        self.layer4 = _make_stage(3, width * 16, width * 8, make_normalizer)
        self.dropout = nn.Dropout(dropout_rate)
        self.fc = nn.Linear(width * 8 * _EXPANSION, num_classes)

    def compute_feature_map(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the last feature map (N, 32 * width, T / 8, H / 32, W / 32), sizes rounded."""
        self.check_clips(clips_NCTHW)
        x = self.norm1(self.conv1(clips_NCTHW))
        x = self.layer1(self.maxpool1(x))
        x = self.layer2(self.maxpool2(x))
        return self.layer4(self.layer3(x))


def _make_stage(
    index: int, in_channels: int, inner_channels: int, make_normalizer: NormalizerFactory
) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for block, is_temporal in enumerate(_TEMPORAL_BLOCKS[index]):
        spatial_stride = 2 if block == 0 and index > 0 else 1
        blocks.append(
            _Bottleneck(in_channels, inner_channels, is_temporal, spatial_stride, make_normalizer)
        )
        in_channels = inner_channels * _EXPANSION
    return nn.Sequential(*blocks)


class _Bottleneck(ResidualBlock):
    """3x1x1 or 1x1x1, then 1x3x3 with the stride, then 1x1x1."""

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        is_temporal: bool,
        spatial_stride: int,
        make_normalizer: NormalizerFactory,
    ) -> None:
        stride = (1, spatial_stride, spatial_stride)
        out_channels = inner_channels * _EXPANSION
        super().__init__()
        kernel1 = (3 if is_temporal else 1, 1, 1)
        self.conv1 = make_padded_conv(in_channels, inner_channels, kernel1, make_normalizer)
        self.norm1 = make_normalizer(inner_channels, "relu")
        self.conv2 = make_padded_conv(
            inner_channels, inner_channels, (1, 3, 3), make_normalizer, stride
        )
        self.norm2 = make_normalizer(inner_channels, "relu")
        self.conv3 = make_padded_conv(inner_channels, out_channels, (1, 1, 1), make_normalizer)
        self.norm3 = make_normalizer(out_channels)
        self.downsample = make_downsample(in_channels, out_channels, stride, make_normalizer)

    @property
    def final_normalizer(self) -> nn.Module:
        return self.norm3

    def compute_branch(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.conv1(x))
        x = self.norm2(self.conv2(x))
        return self.norm3(self.conv3(x))
