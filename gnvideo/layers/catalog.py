"""Which normalizers there are by name, and how to build one.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from gnvideo.layers.batch_channel_norm import BatchChannelNorm3d
from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.batch_renorm import BatchRenorm3d
from gnvideo.layers.channel_affine import ChannelAffine3d
from gnvideo.layers.evo_norm import EvoNormS03d
from gnvideo.layers.filter_response_norm import FilterResponseNorm3d
from gnvideo.layers.frozen_batch_norm import FrozenBatchNorm3d
from gnvideo.layers.group_norm import GroupNorm3d
from gnvideo.layers.moving_average_batch_norm import (
    CenteredConv3d,
    MovingAverageBatchNorm3d,
)
from gnvideo.layers.normalized_conv import StandardizedConv3d, WeightNormConv3d
from gnvideo.layers.rms_group_norm import RmsGroupNorm3d
from gnvideo.layers.settings import NormalizerSettings
from gnvideo.layers.sub_batch_norm import SubBatchNorm3d
from gnvideo.layers.switchable_norm import SwitchableNorm3d
from gnvideo.layers.sync_batch_norm import SyncBatchNorm3d
from gnvideo.ops.activation import Activation


@dataclass(frozen=True, slots=True)
class NormalizerSpec:
    """A normalizer that can be chosen by name.

    Attributes:
        name: The name in configurations, results and reports.
        build: `(num_channels, settings, activation) -> module`.
        settings: Names of those that it takes, of `NormalizerSettings`.
        conv_type: The convolution in front of it.
        uses_batch_statistics: Whether training normalizes a clip by other clips.
        has_running_statistics: Whether evaluation uses running statistics that can be recomputed
            (`compute_precise_statistics`).
        reads_past_batches: Whether training normalizes by earlier batches too, so that a forward
            pass cannot be run again.
        replaces_activation: Whether it has a nonlinearity of its own in place of the activation.
    """

    name: str
    build: Callable[[int, NormalizerSettings, Activation], nn.Module]
    settings: tuple[str, ...]
    conv_type: type[nn.Conv3d] = nn.Conv3d
    uses_batch_statistics: bool = False
    has_running_statistics: bool = False
    reads_past_batches: bool = False
    replaces_activation: bool = False


def _build_batch(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return BatchNorm3d(
        num_channels,
        settings.eps,
        settings.momentum,
        activation=activation,
        implementation=settings.implementation,
    )


def _build_sync_batch(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return SyncBatchNorm3d(num_channels, settings.eps, settings.momentum, activation=activation)


def _build_frozen_batch(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return FrozenBatchNorm3d(
        num_channels,
        settings.eps,
        activation=activation,
        implementation=settings.implementation,
    )


def _build_sub_batch(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return SubBatchNorm3d(
        num_channels,
        settings.sub_batch_clips,
        settings.eps,
        settings.momentum,
        activation=activation,
    )


def _build_batch_renorm(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return BatchRenorm3d(
        num_channels,
        settings.eps,
        settings.momentum,
        max_scale=settings.renorm_max_scale,
        max_shift=settings.renorm_max_shift,
        hold_steps=settings.renorm_hold_steps,
        scale_steps=settings.renorm_scale_steps,
        shift_steps=settings.renorm_shift_steps,
        activation=activation,
    )


def _build_moving_average_batch(
    num_channels: int, settings: NormalizerSettings, activation: Activation
):
    return MovingAverageBatchNorm3d(
        num_channels,
        settings.history_batches,
        settings.eps,
        settings.momentum,
        activation=activation,
    )


def _build_batch_channel(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return BatchChannelNorm3d(
        num_channels,
        settings.num_groups,
        settings.eps,
        settings.momentum,
        channels_per_group=settings.channels_per_group,
        activation=activation,
    )


def _build_group(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return GroupNorm3d(
        num_channels,
        settings.num_groups,
        settings.eps,
        channels_per_group=settings.channels_per_group,
        per_frame=settings.per_frame,
        activation=activation,
        implementation=settings.implementation,
    )


def _build_layer(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return GroupNorm3d(
        num_channels,
        1,
        settings.eps,
        per_frame=settings.per_frame,
        activation=activation,
        implementation=settings.implementation,
    )


def _build_instance(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return GroupNorm3d(
        num_channels,
        eps=settings.eps,
        channels_per_group=1,
        per_frame=settings.per_frame,
        activation=activation,
        implementation=settings.implementation,
    )


def _build_rms_group(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return RmsGroupNorm3d(
        num_channels,
        settings.num_groups,
        settings.eps,
        channels_per_group=settings.channels_per_group,
        per_frame=settings.per_frame,
        activation=activation,
    )


def _build_filter_response(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return FilterResponseNorm3d(num_channels, settings.eps, activation=activation)


def _build_evonorm_s0(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return EvoNormS03d(
        num_channels,
        settings.num_groups,
        settings.eps,
        channels_per_group=settings.channels_per_group,
        activation=activation,
    )


def _build_switchable(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return SwitchableNorm3d(num_channels, settings.eps, settings.momentum, activation=activation)


def _build_weight_norm(num_channels: int, settings: NormalizerSettings, activation: Activation):
    return ChannelAffine3d(num_channels, activation=activation)


_GROUP_SETTINGS = ("num_groups", "channels_per_group", "per_frame", "eps")
_FUSED_GROUP_SETTINGS = (*_GROUP_SETTINGS, "implementation")
_RENORM_SETTINGS = (
    *("renorm_max_scale", "renorm_max_shift"),
    *("renorm_hold_steps", "renorm_scale_steps", "renorm_shift_steps"),
)

_SPECS = (
    NormalizerSpec(
        name="batch",
        build=_build_batch,
        settings=("eps", "momentum", "implementation"),
        uses_batch_statistics=True,
        has_running_statistics=True,
    ),
    NormalizerSpec(
        name="sync_batch",
        build=_build_sync_batch,
        settings=("eps", "momentum"),
        uses_batch_statistics=True,
        has_running_statistics=True,
    ),
    NormalizerSpec(
        name="frozen_batch",
        build=_build_frozen_batch,
        settings=("eps", "implementation"),
    ),
    NormalizerSpec(
        name="sub_batch",
        build=_build_sub_batch,
        settings=("sub_batch_clips", "eps", "momentum"),
        uses_batch_statistics=True,
        has_running_statistics=True,
    ),
    NormalizerSpec(
        name="batch_renorm",
        build=_build_batch_renorm,
        settings=("eps", "momentum", *_RENORM_SETTINGS),
        uses_batch_statistics=True,
        has_running_statistics=True,
        reads_past_batches=True,
    ),
    NormalizerSpec(
        name="moving_average_batch",
        build=_build_moving_average_batch,
        settings=("history_batches", "eps", "momentum"),
        conv_type=CenteredConv3d,
        uses_batch_statistics=True,
        reads_past_batches=True,
    ),
    NormalizerSpec(
        name="batch_channel",
        build=_build_batch_channel,
        settings=("num_groups", "channels_per_group", "eps", "momentum"),
        conv_type=StandardizedConv3d,
        uses_batch_statistics=True,
        reads_past_batches=True,
    ),
    NormalizerSpec(
        name="group",
        build=_build_group,
        settings=_FUSED_GROUP_SETTINGS,
    ),
    NormalizerSpec(
        name="layer",
        build=_build_layer,
        settings=("per_frame", "eps", "implementation"),
    ),
    NormalizerSpec(
        name="instance",
        build=_build_instance,
        settings=("per_frame", "eps", "implementation"),
    ),
    NormalizerSpec(
        name="group_ws",
        build=_build_group,
        settings=_FUSED_GROUP_SETTINGS,
        conv_type=StandardizedConv3d,
    ),
    NormalizerSpec(
        name="filter_response",
        build=_build_filter_response,
        settings=("eps",),
        replaces_activation=True,
    ),
    NormalizerSpec(
        name="evonorm_s0",
        build=_build_evonorm_s0,
        settings=("num_groups", "channels_per_group", "eps"),
        replaces_activation=True,
    ),
    NormalizerSpec(
        name="switchable",
        build=_build_switchable,
        settings=("eps", "momentum"),
        uses_batch_statistics=True,
        has_running_statistics=True,
    ),
    NormalizerSpec(
        name="rms_group",
        build=_build_rms_group,
        settings=_GROUP_SETTINGS,
    ),
    NormalizerSpec(
        name="weight_norm",
        build=_build_weight_norm,
        settings=(),
        conv_type=WeightNormConv3d,
    ),
)

NORMALIZERS: Mapping[str, NormalizerSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
