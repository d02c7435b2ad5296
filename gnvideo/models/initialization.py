"""The one initialization of all models: by seed and parameter name, whatever the normalizer."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn

from gnvideo.layers.normalizer import is_normalizer
from gnvideo.models.classifier import VideoClassifier
from gnvideo.models.non_local import NonLocalBlock

_SMALL_STD = 0.01


def initialize(model: VideoClassifier, seed: int, zero_final_gamma: bool = True) -> None:
    """Sets all parameters of a model for training from scratch.

    Convolutions: normal with variance 2 / fan_out ("He"), where fan_out counts the outputs that one
    input reaches: C_out / groups times the kernel, so 27 in a depthwise 3x3x3. Linear layers and
    the convolutions of non-local blocks: normal with deviation 0.01. Biases: 0. Normalizers: scale
    1, offset 0. Each weight has its own generator, seeded by `seed` and the weight's name, so that
    models which differ in their normalizer start from equal convolutions, on any device.

    Args:
        model: The model, changed in place.
        seed: Any integer.
        zero_final_gamma: Whether the scale of each residual block's last normalizer starts at 0, so
            that every block starts as its shortcut; whatever the normalizer.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852; scale 0 as in
        Wu and He, "Group Normalization", ECCV 2018, sec. 4.1, arXiv:1803.08494; linear layers as in
        the latter's published code; non-local blocks as in the code of Wang et al., "Non-local
        Neural Networks", CVPR 2018, arXiv:1711.07971.
    """
    non_local_blocks = [module for module in model.modules() if isinstance(module, NonLocalBlock)]
    non_local_layers = {layer for block in non_local_blocks for layer in block.modules()}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                if isinstance(module, nn.Linear) or module in non_local_layers:
                    std = _SMALL_STD
                else:
                    fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
                    std = math.sqrt(2 / fan_out)
                _draw_normal(module.weight, std, seed, f"{name}.weight")
                _fill(module.bias, 0.0)
            elif is_normalizer(module):
                reset_parameters = module.reset_parameters
                assert callable(reset_parameters)
                reset_parameters()
        if zero_final_gamma:
            for normalizer in model.final_normalizers():
                _fill(getattr(normalizer, "weight", None), 0.0)


def _draw_normal(parameter: torch.Tensor, std: float, seed: int, name: str) -> None:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    values = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
    parameter.copy_(values)


def _fill(parameter: torch.Tensor | None, value: float) -> None:
    if parameter is not None:
        parameter.fill_(value)
