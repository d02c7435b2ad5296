"""Which of pytorchvideo's hub networks there are, and how to build one with any normalizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gnvideo.errors import ModelError
from gnvideo.layers import NormalizerFactory
from gnvideo.models.classifier import Size3, Window, check_settings
from gnvideo.models.pytorchvideo_networks import (
    ALPHA,
    PytorchvideoNetwork,
    PytorchvideoSlowFast,
    PytorchvideoX3D,
)


def make_pytorchvideo_network(
    name: str,
    num_classes: int,
    make_normalizer: NormalizerFactory,
    *,
    dropout_rate: float,
    train_crop_pixels: int,
    num_frames: int,
) -> PytorchvideoNetwork:
    """Returns a network of pytorchvideo's hub, untrained, with the given normalizer.

    Its outputs are logits, also where the hub's network ends with a softmax. Its `i3d_r50` is not
    the network of the GroupNorm paper: its stem does not stride in time, so it is made for 8
    frames. For the paper's see `gnvideo.models.i3d`.

    Args:
        name: A name in `PYTORCHVIDEO_NETWORKS`.
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        dropout_rate: Dropout before the last layer.
        train_crop_pixels: Height and width of a training clip; with num_frames it sets the size
            of the head's pooling, and clips must not be smaller.
        num_frames: Frames of a training clip.

    Raises:
        ModelError: The name is unknown, a setting is out of its range, the training clip is too
            small, or pytorchvideo does not import.

    Source: https://github.com/facebookresearch/pytorchvideo, models/hub, release 0.1.5.
    """
    if name not in PYTORCHVIDEO_NETWORKS:
        raise ModelError(
            f"unknown pytorchvideo network {name!r}; "
            f"choose one of {', '.join(PYTORCHVIDEO_NETWORKS)}"
        )
    check_settings(
        width=64,
        dropout_rate=dropout_rate,
        num_frames=num_frames,
        train_crop_pixels=train_crop_pixels,
    )
    spec = PYTORCHVIDEO_NETWORKS[name]
    train_clip = (num_frames, train_crop_pixels, train_crop_pixels)
    return spec.network_type(
        name, spec.windows, num_classes, make_normalizer, dropout_rate, train_clip
    )


@dataclass(frozen=True, slots=True)
class PytorchvideoSpec:
    """A network of pytorchvideo's hub.

    Attributes:
        windows: The layers that change the size of the map, in order.
        num_frames: Frames of the clips that the hub's weights were trained on.
        train_crop_pixels: Height and width of those clips.
        dropout_rate: The hub's default.
        network_type: What its input and its head need.
    """

    windows: tuple[Window, ...]
    num_frames: int
    train_crop_pixels: int = 224
    dropout_rate: float = 0.5
    network_type: type[PytorchvideoNetwork] = PytorchvideoNetwork


def _window(kernel: Size3, stride: Size3) -> Window:
    return Window(kernel, stride, (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))


_STEM_POOL = _window((1, 3, 3), (1, 2, 2))
_TIME_POOL = Window((2, 1, 1), (2, 1, 1), (0, 0, 0))
_STAGE = _window((1, 3, 3), (1, 2, 2))
_STAGE_333 = _window((3, 3, 3), (1, 2, 2))
_STAGE_333_T = _window((3, 3, 3), (2, 2, 2))


def _stem(frames: int) -> Window:
    return _window((frames, 7, 7), (1, 2, 2))


def _slowfast(num_frames: int) -> PytorchvideoSpec:
    # The fast pathway's layers, then the join.
    join = Window((ALPHA, 1, 1), (ALPHA, 1, 1), (0, 0, 0))
    return PytorchvideoSpec(
        windows=(_stem(5), _STEM_POOL, _STAGE, _STAGE, _STAGE, join),
        num_frames=num_frames,
        network_type=PytorchvideoSlowFast,
    )


def _x3d(num_frames: int, train_crop_pixels: int) -> PytorchvideoSpec:
    return PytorchvideoSpec(
        windows=(_window((5, 3, 3), (1, 2, 2)), *(4 * (_STAGE_333,))),
        num_frames=num_frames,
        train_crop_pixels=train_crop_pixels,
        network_type=PytorchvideoX3D,
    )


PYTORCHVIDEO_NETWORKS: Mapping[str, PytorchvideoSpec] = MappingProxyType(
    {
        "slow_r50": PytorchvideoSpec((_stem(1), _STEM_POOL, _STAGE, _STAGE, _STAGE), 8),
        "i3d_r50": PytorchvideoSpec((_stem(5), _STEM_POOL, _TIME_POOL, *(3 * (_STAGE,))), 8),
        "c2d_r50": PytorchvideoSpec((_stem(1), _STEM_POOL, _TIME_POOL, *(3 * (_STAGE,))), 8),
        "r2plus1d_r50": PytorchvideoSpec(
            (_stem(1), _STAGE_333, _STAGE_333, _STAGE_333_T, _STAGE_333_T), 16
        ),
        "csn_r101": PytorchvideoSpec(
            (_stem(3), _STEM_POOL, *(3 * (_STAGE_333_T,))), 32, dropout_rate=0.0
        ),
        "slowfast_r50": _slowfast(32),
        "slowfast_r101": _slowfast(32),
        "slowfast_16x8_r101_50_50": _slowfast(64),
        "x3d_xs": _x3d(4, 160),
        "x3d_s": _x3d(13, 160),
        "x3d_m": _x3d(16, 224),
        "x3d_l": _x3d(16, 312),
    }
)
