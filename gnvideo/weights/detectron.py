"""Detectron's GroupNorm ResNets: Caffe2's names, colors and pixel scale to torch's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gnvideo.weights.layouts import DETECTRON_STD

_LEAVES = {"w": "weight", "s": "weight", "b": "bias"}
_BLOCK = re.compile(r"(res\d)_(\d+)_(branch.+)")


def convert_blobs(blobs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
    """Returns the tensors by the names of the layout `detectron`, for RGB pixels.

    Of `res2_0_branch2a_gn_s` it makes `res2.0.branch2a_gn.weight`. The first convolution takes BGR
    pixels in 0..255 minus their mean; its input channels are reversed, and it is multiplied by 255
    times the deviation of the layout's input recipe. So the network is the same function, of RGB
    pixels x in 0..1 as (x - mean) / std. The solver's momentum is left out.

    Source: names and input as in https://github.com/facebookresearch/Detectron, modeling/ResNet.py
        and core/config.py (PIXEL_MEANS).
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, blob in blobs.items():
        if name.endswith("_momentum"):
            continue
        module, _, leaf = name.rpartition("_")
        block = _BLOCK.fullmatch(module)
        module = ".".join(block.groups()) if block else module
        # Not of the file's memory, which may be read-only or of the other byte order.
        tensor = torch.from_numpy(blob.astype(np.float32))
        tensors[f"{module}.{_LEAVES.get(leaf, leaf)}"] = tensor
    stem = tensors.get("conv1.weight")
    if stem is not None:
        tensors["conv1.weight"] = stem.flip(1) * (255 * DETECTRON_STD)
    return tensors
