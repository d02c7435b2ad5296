"""Normalizers as modules, and the one definition of what a normalizer is."""

from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.catalog import (
    NORMALIZERS,
    NormalizerFactory,
    NormalizerSettings,
    NormalizerSpec,
    make_normalizer,
    normalizer_factory,
)
from gnvideo.layers.conversion import ConversionReport, convert_normalizer
from gnvideo.layers.fusing import FusionReport, fuse_frozen_statistics
from gnvideo.layers.group_norm import GroupNorm3d
from gnvideo.layers.normalizer import (
    Activation,
    describe_normalizers,
    has_running_statistics,
    is_normalizer,
)
from gnvideo.layers.precise_batch_norm import compute_precise_statistics

__all__ = [
    "NORMALIZERS",
    "Activation",
    "BatchNorm3d",
    "ConversionReport",
    "FusionReport",
    "GroupNorm3d",
    "NormalizerFactory",
    "NormalizerSettings",
    "NormalizerSpec",
    "compute_precise_statistics",
    "convert_normalizer",
    "describe_normalizers",
    "fuse_frozen_statistics",
    "has_running_statistics",
    "is_normalizer",
    "make_normalizer",
    "normalizer_factory",
]
