"""Builds normalizers by name, and the convolutions in front of them.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers.catalog import NORMALIZERS, NormalizerSpec
from gnvideo.layers.settings import NormalizerSettings
from gnvideo.ops.activation import Activation
from gnvideo.ops.implementation import explain_choice
from gnvideo.ops.triton_norm.obstacles import find_device_obstacle


@dataclass(frozen=True, slots=True)
class NormalizerFactory:
    """Makes the normalizers of a network, and the convolutions in front of them.

    Attributes:
        spec: Which normalizer.
        settings: Its settings.
    """

    spec: NormalizerSpec
    settings: NormalizerSettings

    def __call__(self, num_channels: int, activation: Activation = None) -> nn.Module:
        """Returns the normalizer for (N, num_channels, T, H, W), then the activation.

        Raises:
            NormalizerError: The channels or a setting are out of range.
        """
        return self.spec.build(num_channels, self.settings, activation)

    def explain_implementation(self, device: torch.device) -> tuple[str, str] | None:
        """Returns whose kernels these normalizers run by on a device, and why.

        None if they have no implementations to choose from. A tensor that the kernels cannot take
        runs by others, with a warning.

        Raises:
            NormalizerError: The implementation that was asked for cannot run there.
        """
        if "implementation" not in self.spec.settings:
            return None
        return explain_choice(
            f"the normalizer {self.spec.name}",
            self.settings.implementation,
            device.type,
            lambda: find_device_obstacle(device),
        )

    def make_conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (0, 0, 0),
        groups: int = 1,
    ) -> nn.Conv3d:
        """Returns a convolution without bias whose output goes to one of these normalizers."""
        return self.spec.conv_type(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )


def normalizer_factory(name: str, **settings: Any) -> NormalizerFactory:
    """Returns the factory of the normalizer `name`, the form that models take.

    Args:
        name: A name in `NORMALIZERS`.
        **settings: Those of `NormalizerSettings` that are not at their defaults.

    Raises:
        NormalizerError: The name is unknown.
    """
    if name not in NORMALIZERS:
        raise NormalizerError(
            f"unknown normalizer {name!r}; choose one of {', '.join(NORMALIZERS)}"
        )
    return NormalizerFactory(NORMALIZERS[name], NormalizerSettings(**settings))


def make_normalizer(
    name: str, num_channels: int, activation: Activation = None, **settings: Any
) -> nn.Module:
    """Returns the normalizer `name` for (N, num_channels, T, H, W), then the activation.

    Args:
        name: A name in `NORMALIZERS`.
        num_channels: C.
        activation: What follows the normalization.
        **settings: Those of `NormalizerSettings` that are not at their defaults.

    Raises:
        NormalizerError: The name is unknown, or the channels or a setting are out of range.
    """
    return normalizer_factory(name, **settings)(num_channels, activation)
