"""The I3D ResNets: the baseline of the GroupNorm paper's Kinetics experiments and its relatives.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import MaxPool3d, NormalizerFactory
from gnvideo.models.classifier import Size3, Window, check_settings
from gnvideo.models.non_local import NonLocalBlock
from gnvideo.models.residual import (
    ResidualBlock,
    ResidualClassifier,
    make_downsample,
    make_padded_conv,
)

_EXPANSION = 4


class _Layout(NamedTuple):
    """What sets a depth apart, stage by stage.

    Attributes:
        num_blocks: Blocks of each stage.
        non_local_after: The blocks that a non-local block follows, if there are any.
    """

    num_blocks: tuple[int, int, int, int]
    non_local_after: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


_DEPTHS: Mapping[int, _Layout] = MappingProxyType(
    {
        50: _Layout((3, 4, 6, 3), ((), (1, 3), (1, 3, 5), ())),
        101: _Layout((3, 4, 23, 3), ((), (1, 3), (6, 13, 20), ())),
    }
)

# conv1 and maxpool1: for many frames close together, for few frames far apart, and as mmaction2 has
# them for many.
_STEMS: Mapping[str, tuple[Window, Window]] = MappingProxyType(
    {
        "dense": (
            Window((5, 7, 7), (2, 2, 2), (2, 3, 3)),
            Window((2, 3, 3), (2, 2, 2), (0, 0, 0)),
        ),
        "sparse": (
            Window((5, 7, 7), (1, 2, 2), (2, 3, 3)),
            Window((1, 3, 3), (1, 2, 2), (0, 0, 0)),
        ),
        "mmaction2": (
            Window((5, 7, 7), (2, 2, 2), (2, 3, 3)),
            Window((1, 3, 3), (2, 2, 2), (0, 1, 1)),
        ),
    }
)
_MAXPOOL2 = Window((2, 1, 1), (2, 1, 1), (0, 0, 0))
_STAGE = Window((1, 3, 3), (1, 2, 2), (0, 1, 1))


def make_i3d(
    depth: int,
    stem: Literal["dense", "sparse", "mmaction2"],
    num_classes: int,
    make_normalizer: NormalizerFactory,
    *,
    width: int = 64,
    dropout_rate: float = 0.5,
    non_local: bool = False,
    train_crop_pixels: int = 224,
    num_frames: int = 32,
) -> I3DResNet:
    """Returns an I3D ResNet of Wang et al.; depth 50 is what the GroupNorm paper trains.

    Depth 50: 28.04 million parameters for 400 classes; 32.8 G multiply-accumulates for 32 x 224 x
    224. Non-local blocks add 7.35 million parameters at either depth.

    Args:
        depth: 50 or 101.
        stem: The first two layers; all shapes of weights are equal. "dense" is the paper's.
            "sparse" leaves the frames as many as they are, for clips of few frames far apart (8
            frames, one of 8). "mmaction2" pools as mmaction2's I3D does, whose weights compute the
            same here.
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        width: Channels of the first convolution; all others in proportion.
        dropout_rate: Dropout before the last layer.
        non_local: Whether there are five non-local blocks, two in layer2 and three in layer3. The
            other layers' names and shapes stay.
        train_crop_pixels: Height and width of a training clip.
        num_frames: Frames of a training clip.

    Raises:
        ModelError: A setting is out of its range, or the training clip is too small.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971; layer sizes, the
        sparse form and the places of non-local blocks as in its published code (first pooling 2x3x3
        and second 2x1x1, both without padding; table 1 of the paper prints other kernels).
        https://github.com/open-mmlab/mmaction2, models/backbones/resnet3d.py, release 1.2.0.
    """
    if depth not in _DEPTHS:
        raise ModelError(f"depth is {depth}; an i3d has depth {' or '.join(map(str, _DEPTHS))}")
    check_settings(
        width=width,
        dropout_rate=dropout_rate,
        num_frames=num_frames,
        train_crop_pixels=train_crop_pixels,
    )
    return I3DResNet(
        _DEPTHS[depth],
        _STEMS[stem],
        num_classes,
        make_normalizer,
        width,
        dropout_rate,
        non_local,
        (num_frames, train_crop_pixels, train_crop_pixels),
    )


class I3DResNet(ResidualClassifier):
    """See `make_i3d`."""

    def __init__(
        self,
        layout: _Layout,
        stem: tuple[Window, Window],
        num_classes: int,
        make_normalizer: NormalizerFactory,
        width: int,
        dropout_rate: float,
        non_local: bool,
        train_clip: Size3,
    ) -> None:
        super().__init__(num_classes, (*stem, _MAXPOOL2, _STAGE, _STAGE, _STAGE), train_clip)
        conv1, maxpool1 = stem
        self.conv1 = make_normalizer.make_conv(3, width, *conv1)
        self.norm1 = make_normalizer(width, "relu")
        self.maxpool1 = MaxPool3d(*maxpool1)
        stages: list[nn.Sequential] = []
        in_channels = width
        for stage, num_blocks in enumerate(layout.num_blocks):
            non_local_after = layout.non_local_after[stage] if non_local else ()
            stages.append(
                _make_stage(stage, num_blocks, in_channels, width, non_local_after, make_normalizer)
            )
            in_channels = width * 2**stage * _EXPANSION
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.maxpool2 = MaxPool3d(*_MAXPOOL2)
        self.dropout = nn.Dropout(dropout_rate)
        self.fc = nn.Linear(in_channels, num_classes)

    def compute_feature_map(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the last feature map (N, 32 * width, T', H / 32, W / 32), sizes rounded.

        T' is T / 8, or T / 2 in the sparse form.
        """
        self.check_clips(clips_NCTHW)
        x = self.norm1(self.conv1(clips_NCTHW))
        x = self.layer1(self.maxpool1(x))
        x = self.layer2(self.maxpool2(x))
        return self.layer4(self.layer3(x))


def _make_stage(
    stage: int,
    num_blocks: int,
    in_channels: int,
    width: int,
    non_local_after: Sequence[int],
    make_normalizer: NormalizerFactory,
) -> nn.Sequential:
    """Returns the blocks of a stage under their numbers, non-local ones under names of their own.

    So weights of a network without non-local blocks fit one with them, and equal seeds start both
    from equal convolutions.
    """
    inner_channels = width * 2**stage
    blocks = nn.Sequential()
    for block in range(num_blocks):
        # Whether its first convolution is inflated to 3x1x1: all, every other, the middle one.
        is_temporal = (True, block % 2 == 0, block % 2 == 0, block % 2 == 1)[stage]
        spatial_stride = 2 if block == 0 and stage > 0 else 1
        blocks.add_module(
            str(block),
            _Bottleneck(in_channels, inner_channels, is_temporal, spatial_stride, make_normalizer),
        )
        in_channels = inner_channels * _EXPANSION
        if block in non_local_after:
            blocks.add_module(f"non_local{block}", NonLocalBlock(in_channels, make_normalizer))
    return blocks


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
        return self.conv3(x)
