"""R(2+1)D: residual networks whose 3x3x3 convolutions are a 1x3x3 and a 3x1x1 one.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import NormalizerFactory
from gnvideo.models.classifier import Size3, check_settings
from gnvideo.models.residual import make_padded_conv
from gnvideo.models.resnet3d import STEM, BasicBlock, Layout, ResNet3D


def make_r2plus1d(
    depth: int,
    num_classes: int,
    make_normalizer: NormalizerFactory,
    *,
    width: int = 64,
    dropout_rate: float = 0.0,
    temporal_strides: Sequence[int] = (1, 2, 2, 2),
    train_crop_pixels: int = 112,
    num_frames: int = 16,
) -> ResNet3D:
    """Returns an R(2+1)D, in the layout and under the names of published weights.

    With M channels between the two halves of a convolution from I to O channels, it has about as
    many weights as a 3x3x3 one:
        M = floor(27 I O / (9 I + 3 O))
    Depth 34 is so throughout, as the networks trained on IG-65M and Sports-1M. Depth 18 is
    torchvision's `r2plus1d_18`: its blocks' second convolution has the M of the first one.

    Args:
        depth: 18 or 34.
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        width: Channels of the first convolution; all others in proportion.
        dropout_rate: Dropout before the last layer.
        temporal_strides: Stride in time of each of the four stages.
        train_crop_pixels: Height and width of a training clip.
        num_frames: Frames of a training clip.

    Raises:
        ModelError: A setting is out of its range.

    Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR
        2018, sec. 3.5, arXiv:1711.11248; the stem's 45 channels and depth 18 as in torchvision 0.29
        (models/video/resnet.py), depth 34 as in https://github.com/moabitcoin/ig65m-pytorch.
    """
    if depth not in _DEPTHS:
        raise ModelError(
            f"depth is {depth}; an r2plus1d has depth {' or '.join(map(str, _DEPTHS))}"
        )
    check_settings(
        width=width,
        dropout_rate=dropout_rate,
        num_frames=num_frames,
        train_crop_pixels=train_crop_pixels,
    )
    return ResNet3D(
        _DEPTHS[depth],
        num_classes,
        make_normalizer,
        _make_stem(width, make_normalizer),
        [STEM],
        width,
        dropout_rate,
        temporal_strides,
        (num_frames, train_crop_pixels, train_crop_pixels),
    )


def _make_stem(width: int, make_normalizer: NormalizerFactory) -> nn.Sequential:
    """Returns the two halves of a 3x7x7 convolution, each with its normalizer."""
    # 45 channels at width 64; at width 1, one.
    middle_channels = max(1, width * 45 // 64)
    kernel, stride, padding = STEM
    spatial = make_normalizer.make_conv(
        3, middle_channels, (1, *kernel[1:]), (1, *stride[1:]), (0, *padding[1:])
    )
    temporal = make_padded_conv(middle_channels, width, (kernel[0], 1, 1), make_normalizer)
    # torchvision counts its ReLU, which here the normalizer applies.
    return nn.Sequential(
        OrderedDict(
            {
                "0": spatial,
                "1": make_normalizer(middle_channels, "relu"),
                "3": temporal,
                "4": make_normalizer(width, "relu"),
            }
        )
    )


def _make_factored_conv(
    in_channels: int,
    middle_channels: int,
    out_channels: int,
    stride: Size3,
    make_normalizer: NormalizerFactory,
) -> nn.Sequential:
    """Returns 1x3x3, normalizer and ReLU, 3x1x1, under torchvision's names."""
    spatial = make_padded_conv(
        in_channels, middle_channels, (1, 3, 3), make_normalizer, (1, *stride[1:])
    )
    temporal = make_padded_conv(
        middle_channels, out_channels, (3, 1, 1), make_normalizer, (stride[0], 1, 1)
    )
    return nn.Sequential(
        OrderedDict({"0": spatial, "1": make_normalizer(middle_channels, "relu"), "3": temporal})
    )


def _count_middle_channels(in_channels: int, out_channels: int) -> int:
    return 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)


def _make_block(
    in_channels: int,
    inner_channels: int,
    stride: Size3,
    make_normalizer: NormalizerFactory,
    *,
    has_one_middle: bool,
) -> BasicBlock:
    """Returns a block of two factored 3x3x3 convolutions."""
    middle1 = _count_middle_channels(in_channels, inner_channels)
    middle2 = _count_middle_channels(inner_channels, inner_channels)
    if has_one_middle:
        middle2 = middle1
    conv1 = _make_factored_conv(in_channels, middle1, inner_channels, stride, make_normalizer)
    conv2 = _make_factored_conv(inner_channels, middle2, inner_channels, (1, 1, 1), make_normalizer)
    return BasicBlock(conv1, conv2, in_channels, inner_channels, stride, make_normalizer)


_DEPTHS: Mapping[int, Layout] = MappingProxyType(
    {
        18: Layout(functools.partial(_make_block, has_one_middle=True), 1, (2, 2, 2, 2)),
        34: Layout(functools.partial(_make_block, has_one_middle=False), 1, (3, 4, 6, 3)),
    }
)
