"""Video classification networks by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gnvideo.errors import ModelError
from gnvideo.layers import NormalizerFactory
from gnvideo.models.classifier import VideoClassifier
from gnvideo.models.i3d import make_i3d
from gnvideo.models.inception_i3d import make_inception_i3d
from gnvideo.models.initialization import initialize
from gnvideo.models.pytorchvideo_adapter import PYTORCHVIDEO_NETWORKS, make_pytorchvideo_network
from gnvideo.models.r2plus1d import make_r2plus1d
from gnvideo.models.resnet3d import make_resnet3d

__all__ = [
    "MODELS",
    "VideoClassifier",
    "initialize",
    "list_settings",
    "make_i3d",
    "make_inception_i3d",
    "make_model",
    "make_pytorchvideo_network",
    "make_r2plus1d",
    "make_resnet3d",
]

# Each is called as (num_classes, make_normalizer, **settings).
MODELS: Mapping[str, Callable[..., VideoClassifier]] = MappingProxyType(
    {
        **{f"i3d_r{depth}": functools.partial(make_i3d, depth, False) for depth in (50, 101)},
        **{
            f"i3d_r{depth}_8x8": functools.partial(make_i3d, depth, True, num_frames=8)
            for depth in (50, 101)
        },
        "inception_i3d": make_inception_i3d,
        **{
            f"resnet3d_{depth}": functools.partial(make_resnet3d, depth)
            for depth in (10, 18, 34, 50, 101)
        },
        **{f"r2plus1d_{depth}": functools.partial(make_r2plus1d, depth) for depth in (18, 34)},
        **{
            f"pytorchvideo_{name}": functools.partial(
                make_pytorchvideo_network,
                name,
                dropout_rate=spec.dropout_rate,
                train_crop_pixels=spec.train_crop_pixels,
                num_frames=spec.num_frames,
            )
            for name, spec in PYTORCHVIDEO_NETWORKS.items()
        },
    }
)


def make_model(
    name: str, num_classes: int, make_normalizer: NormalizerFactory, **settings: Any
) -> VideoClassifier:
    """Returns the model `name`, with torch's default weights; `initialize` sets those of a seed.

    Args:
        name: A name in `MODELS`.
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        **settings: The model's own settings; `list_settings(name)` names them.

    Raises:
        ModelError: The name or a setting is unknown, or a setting is out of its range.
    """
    known = list_settings(name)
    for setting in settings:
        if setting not in known:
            raise ModelError(
                f"model {name} has no setting {setting!r}; its settings are {', '.join(known)}"
            )
    return MODELS[name](num_classes, make_normalizer, **settings)


def list_settings(name: str) -> dict[str, Any]:
    """Returns the settings of the model `name` with their defaults.

    Raises:
        ModelError: The name is unknown.
    """
    if name not in MODELS:
        raise ModelError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(MODELS[name]).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
