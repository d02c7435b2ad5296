"""A ResNet with PySlowFast's names, written from its published layers.

Source: https://github.com/facebookresearch/SlowFast, models/video_model_builder.py (temporal
kernels and pooling of i3d, c2d and slow), stem_helper.py, resnet_helper.py, head_helper.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn


class Kind(NamedTuple):
    """Frames of the stem's kernel, of each block's first kernel, and of the pooling after s2."""

    stem: int
    blocks: tuple[tuple[int, ...], ...]
    pool: int


KINDS = {
    "i3d": Kind(5, ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1)), 2),
    "c2d": Kind(1, ((1,) * 3, (1,) * 4, (1,) * 6, (1,) * 3), 2),
    "slow": Kind(1, ((1,) * 3, (1,) * 4, (3,) * 6, (3,) * 3), 1),
}


def make_conv(c_in: int, c_out: int, kernel: tuple[int, int, int], stride: int = 1) -> nn.Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(c_in, c_out, kernel, (1, stride, stride), padding, bias=False)


class Stem(nn.Module):
    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.conv = make_conv(3, width, (frames, 7, 7), 2)
        self.bn = nn.BatchNorm3d(width)
        self.pool_layer = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool_layer(self.bn(self.conv(x)).relu())


class Transform(nn.Module):
    def __init__(self, c_in: int, inner: int, frames: int, stride: int) -> None:
        super().__init__()
        self.a = make_conv(c_in, inner, (frames, 1, 1))
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = make_conv(inner, inner, (1, 3, 3), stride)
        self.b_bn = nn.BatchNorm3d(inner)
        self.c = make_conv(inner, inner * 4, (1, 1, 1))
        self.c_bn = nn.BatchNorm3d(inner * 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a_bn(self.a(x)).relu()
        return self.c_bn(self.c(self.b_bn(self.b(x)).relu()))


class Block(nn.Module):
    def __init__(self, c_in: int, inner: int, frames: int, stride: int) -> None:
        super().__init__()
        self.has_shortcut = c_in != inner * 4 or stride != 1
        if self.has_shortcut:
            self.branch1 = make_conv(c_in, inner * 4, (1, 1, 1), stride)
            self.branch1_bn = nn.BatchNorm3d(inner * 4)
        self.branch2 = Transform(c_in, inner, frames, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.branch1_bn(self.branch1(x)) if self.has_shortcut else x
        return (shortcut + self.branch2(x)).relu()


class PySlowFastResNet(nn.Module):
    def __init__(self, kind: str, width: int, num_classes: int) -> None:
        super().__init__()
        layers = KINDS[kind]
        self.s1 = nn.ModuleDict({"pathway0_stem": Stem(width, layers.stem)})
        self.pathway0_pool = nn.MaxPool3d((layers.pool, 1, 1))
        c_in = width
        for index, kernels in enumerate(layers.blocks):
            inner = width * 2**index
            blocks = nn.ModuleDict()
            for block, frames in enumerate(kernels):
                stride = 2 if block == 0 and index > 0 else 1
                blocks[f"pathway0_res{block}"] = Block(c_in, inner, frames, stride)
                c_in = inner * 4
            self.add_module(f"s{index + 2}", blocks)
        self.head = nn.ModuleDict({"projection": nn.Linear(c_in, num_classes)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.s1["pathway0_stem"](x)
        for index in range(4):
            for block in self.get_submodule(f"s{index + 2}").children():
                x = block(x)
            if index == 0:
                x = self.pathway0_pool(x)
        return self.head["projection"](x.mean((2, 3, 4)))
