"""Normalizers as modules, and the one definition of what a normalizer is."""

from gnvideo.layers.group_norm import GroupNorm3d
from gnvideo.layers.normalizer import (
    NORMALIZERS,
    NormalizerSpec,
    describe_normalizers,
    is_normalizer,
    make_normalizer,
    normalizer_factory,
    uses_batch_statistics,
)
from gnvideo.layers.precise_batch_norm import compute_precise_statistics

__all__ = [
    "NORMALIZERS",
    "GroupNorm3d",
    "NormalizerSpec",
    "compute_precise_statistics",
    "describe_normalizers",
    "is_normalizer",
    "make_normalizer",
    "normalizer_factory",
    "uses_batch_statistics",
]
