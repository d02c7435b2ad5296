"""Weights that others trained: read, translated, inflated, and written for them again."""

from gnvideo.weights.export import EXPORT_LAYOUTS, export_layout, pack_for_project
from gnvideo.weights.files import WeightsFile, read_weights_file, strip_prefixes
from gnvideo.weights.inflation import inflate_kernel
from gnvideo.weights.layouts import LAYOUTS, PixelScale, find_layout
from gnvideo.weights.report import TransferReport
from gnvideo.weights.transfer import transfer_weights

__all__ = [
    "EXPORT_LAYOUTS",
    "LAYOUTS",
    "PixelScale",
    "TransferReport",
    "WeightsFile",
    "export_layout",
    "find_layout",
    "inflate_kernel",
    "pack_for_project",
    "read_weights_file",
    "strip_prefixes",
    "transfer_weights",
]
