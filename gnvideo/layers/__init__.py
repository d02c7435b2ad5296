"""Normalizers as modules, and the one definition of what a normalizer is."""

from gnvideo.layers.adjusted_conv import AdjustedConv3d
from gnvideo.layers.batch_channel_norm import BatchChannelNorm3d
from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.batch_renorm import BatchRenorm3d
from gnvideo.layers.catalog import NORMALIZERS, NormalizerSpec
from gnvideo.layers.channel_affine import ChannelAffine3d
from gnvideo.layers.conversion import (
    ConversionReport,
    convert_normalizer,
    fold_running_affine,
)
from gnvideo.layers.evo_norm import EvoNormS03d
from gnvideo.layers.factory import NormalizerFactory, make_normalizer, normalizer_factory
from gnvideo.layers.filter_response_norm import FilterResponseNorm3d
from gnvideo.layers.frozen_batch_norm import FrozenBatchNorm3d
from gnvideo.layers.fusing import FusionReport, fuse_frozen_statistics
from gnvideo.layers.group_norm import GroupNorm3d
from gnvideo.layers.moving_average_batch_norm import (
    CenteredConv3d,
    MovingAverageBatchNorm3d,
)
from gnvideo.layers.normalized_conv import StandardizedConv3d, WeightNormConv3d
from gnvideo.layers.normalizer import (
    describe_normalizers,
    has_running_statistics,
    is_normalizer,
)
from gnvideo.layers.pooling import MaxPool3d, max_pool3d, replace_max_pools
from gnvideo.layers.precise_batch_norm import compute_precise_statistics
from gnvideo.layers.residual_sum import normalize_and_add
from gnvideo.layers.rms_group_norm import RmsGroupNorm3d
from gnvideo.layers.running_affine import RunningAffine
from gnvideo.layers.settings import NormalizerSettings
from gnvideo.layers.sub_batch_norm import SubBatchNorm3d
from gnvideo.layers.switchable_norm import SwitchableNorm3d
from gnvideo.layers.sync_batch_norm import SyncBatchNorm3d

__all__ = [
    "NORMALIZERS",
    "AdjustedConv3d",
    "BatchChannelNorm3d",
    "BatchNorm3d",
    "BatchRenorm3d",
    "CenteredConv3d",
    "ChannelAffine3d",
    "ConversionReport",
    "EvoNormS03d",
    "FilterResponseNorm3d",
    "FrozenBatchNorm3d",
    "FusionReport",
    "GroupNorm3d",
    "MaxPool3d",
    "MovingAverageBatchNorm3d",
    "NormalizerFactory",
    "NormalizerSettings",
    "NormalizerSpec",
    "RmsGroupNorm3d",
    "RunningAffine",
    "StandardizedConv3d",
    "SubBatchNorm3d",
    "SwitchableNorm3d",
    "SyncBatchNorm3d",
    "WeightNormConv3d",
    "compute_precise_statistics",
    "convert_normalizer",
    "describe_normalizers",
    "fold_running_affine",
    "fuse_frozen_statistics",
    "has_running_statistics",
    "is_normalizer",
    "make_normalizer",
    "max_pool3d",
    "normalize_and_add",
    "normalizer_factory",
    "replace_max_pools",
]
