"""pytorchvideo's hub networks with any normalizer, under pytorchvideo's own parameter names.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import NormalizerFactory
from gnvideo.models.classifier import Size3, VideoClassifier, Window, check_settings

_STEM_POOL = Window((1, 3, 3), (1, 2, 2), (0, 1, 1))
_TIME_POOL = Window((2, 1, 1), (2, 1, 1), (0, 0, 0))
_STAGE = Window((1, 3, 3), (1, 2, 2), (0, 1, 1))


def _stem(frames: int) -> Window:
    return Window((frames, 7, 7), (1, 2, 2), (frames // 2, 3, 3))


_WINDOWS: Mapping[str, tuple[Window, ...]] = MappingProxyType(
    {
        "slow_r50": (_stem(1), _STEM_POOL, _STAGE, _STAGE, _STAGE),
        "i3d_r50": (_stem(5), _STEM_POOL, _TIME_POOL, _STAGE, _STAGE, _STAGE),
        "c2d_r50": (_stem(1), _STEM_POOL, _TIME_POOL, _STAGE, _STAGE, _STAGE),
    }
)


def make_pytorchvideo_resnet(
    name: str,
    num_classes: int,
    make_normalizer: NormalizerFactory,
    *,
    dropout_rate: float = 0.5,
    train_crop_pixels: int = 224,
    num_frames: int = 8,
) -> PytorchvideoResNet:
    """Returns a ResNet-50 of pytorchvideo's hub, untrained, with the given normalizer.

    Its `i3d_r50` is not the network of the GroupNorm paper: its stem does not stride in time, so it
    is made for 8 frames. For the paper's see `gnvideo.models.i3d`.

    Args:
        name: "slow_r50", "i3d_r50" or "c2d_r50".
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        dropout_rate: Dropout before the last layer.
        train_crop_pixels: Height and width of a training clip; with num_frames it sets the size
            of the head's pooling, and clips must not be smaller.
        num_frames: Frames of a training clip.

    Raises:
        ModelError: The name is unknown, a setting is out of its range, the training clip is too
            small, or pytorchvideo does not import.

    Source: https://github.com/facebookresearch/pytorchvideo, models/hub/resnet.py, release 0.1.5.
    """
    if name not in _WINDOWS:
        raise ModelError(
            f"unknown pytorchvideo network {name!r}; choose one of {', '.join(_WINDOWS)}"
        )
    check_settings(
        width=64,
        dropout_rate=dropout_rate,
        num_frames=num_frames,
        train_crop_pixels=train_crop_pixels,
    )
    train_clip = (num_frames, train_crop_pixels, train_crop_pixels)
    return PytorchvideoResNet(name, num_classes, make_normalizer, dropout_rate, train_clip)


class PytorchvideoResNet(VideoClassifier):
    """See `make_pytorchvideo_resnet`.

    Attributes:
        blocks: The blocks of pytorchvideo's network: stem, stages, poolings, head.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        make_normalizer: NormalizerFactory,
        dropout_rate: float,
        train_clip: Size3,
    ) -> None:
        super().__init__(num_classes, _WINDOWS[name], train_clip)

        # pytorchvideo passes eps and momentum; those of make_normalizer stand.
        def make_by_keywords(num_features: int, eps: float, momentum: float) -> nn.Module:
            return make_normalizer(num_features)

        network = getattr(_import_hub(), name)(
            model_num_class=num_classes,
            norm=make_by_keywords,
            dropout_rate=dropout_rate,
        )
        self.blocks: nn.ModuleList = network.blocks
        self.blocks[-1].pool = nn.AvgPool3d(self.position_pool, (1, 1, 1), (0, 0, 0))
        # With the head's pooling, from here on a clip must not be smaller than in training.
        self.windows += (Window(self.position_pool, (1, 1, 1), (0, 0, 0)),)

    def compute_feature_map(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the feature map (N, 2048, T', H', W') that enters the head."""
        self.check_clips(clips_NCTHW)
        x = clips_NCTHW
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    def get_classifier(self) -> nn.Linear:
        """Returns the head's projection."""
        head: Any = self.blocks[-1]
        return head.proj

    def final_normalizers(self) -> list[nn.Module]:
        """Returns the normalizers that pytorchvideo marks as the last of their block."""
        return [m for m in self.modules() if getattr(m, "block_final_bn", False)]

    def forward(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes) of pytorchvideo's head."""
        return self.blocks[-1](self.compute_feature_map(clips_NCTHW))


def _import_hub() -> Any:
    """Returns pytorchvideo's module of hub networks, imported when first needed."""
    try:
        with warnings.catch_warnings():
            # It calls torch.jit functions that torch has deprecated.
            warnings.simplefilter("ignore")
            from pytorchvideo.models.hub import resnet
    except ImportError as error:
        raise ModelError(
            f"pytorchvideo does not import ({error}); install pytorchvideo, or choose another model"
        ) from error
    return resnet
