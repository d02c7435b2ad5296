"""Trained networks in other programs' formats; each is checked before it gets its name."""

from gnvideo.export.huggingface import save_huggingface_folder
from gnvideo.export.model_card import MeasuredAccuracy
from gnvideo.export.onnx_file import OPSET, save_onnx_file
from gnvideo.export.torch_program import save_torch_program

__all__ = [
    "OPSET",
    "MeasuredAccuracy",
    "save_huggingface_folder",
    "save_onnx_file",
    "save_torch_program",
]
