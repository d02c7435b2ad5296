"""Which modules are an affine map of each channel in evaluation, and that map's numbers.

Conversion starts from this map, and fusing moves it into the convolution.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import (
    _BatchNorm,  # pyright: ignore[reportPrivateUsage] (torch's only common base of its batch norms)
)

from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.batch_renorm import BatchRenorm3d
from gnvideo.layers.channel_affine import ChannelAffine3d
from gnvideo.layers.frozen_batch_norm import FrozenBatchNorm3d
from gnvideo.layers.moving_average_batch_norm import MovingAverageBatchNorm3d
from gnvideo.layers.normalizer import is_normalizer
from gnvideo.layers.sub_batch_norm import SubBatchNorm3d
from gnvideo.layers.sync_batch_norm import SyncBatchNorm3d

# A subclass with another forward may compute anything, so forwards are compared, not classes.
_PLAIN_FORWARDS = frozenset(
    {
        _BatchNorm.forward,
        nn.SyncBatchNorm.forward,
        BatchNorm3d.forward,
        SyncBatchNorm3d.forward,
        SubBatchNorm3d.forward,
        BatchRenorm3d.forward,
        FrozenBatchNorm3d.forward,
    }
)


@dataclass(frozen=True, slots=True)
class RunningAffine:
    """y = (x - mean) / sqrt(var + eps) * weight + bias of each channel, as evaluation computes it.

    Attributes:
        mean_C: Running mean (C,), float64, as all of them.
        var_C: Running variance.
        weight_C: gamma.
        bias_C: beta.
        eps: Added to the variance.
    """

    mean_C: torch.Tensor
    var_C: torch.Tensor
    weight_C: torch.Tensor
    bias_C: torch.Tensor
    eps: float

    @property
    def slope_C(self) -> torch.Tensor:
        """What x is multiplied by."""
        return self.weight_C / (self.var_C + self.eps).sqrt()


def read_running_affine(module: nn.Module) -> RunningAffine | str:
    """Returns the map (C,) that a normalizer is in evaluation, or the reason why it is none.

    What follows the normalization (an activation of gnvideo's normalizers or of timm's
    BatchNormAct2d) is not part of the map.
    """
    if not isinstance(module, _BatchNorm | FrozenBatchNorm3d):
        return "has no running statistics"
    if type(module).forward not in _PLAIN_FORWARDS and not is_timm_batch_norm(module):
        return "has a forward of its own"
    if module.running_mean is None or module.running_var is None:
        return "has no running statistics"
    if nn.parameter.is_lazy(module.running_mean):
        return "does not know its channels before its first input"
    mean_C = module.running_mean.detach().double()
    has_affine = isinstance(module, FrozenBatchNorm3d) or module.affine
    return RunningAffine(
        mean_C=mean_C,
        var_C=module.running_var.detach().double(),
        weight_C=module.weight.detach().double() if has_affine else torch.ones_like(mean_C),
        bias_C=module.bias.detach().double() if has_affine else torch.zeros_like(mean_C),
        eps=module.eps,
    )


def read_fixed_affine(module: nn.Module) -> RunningAffine | str:
    """Returns `read_running_affine`'s map, or that of a normalizer that subtracts no mean."""
    if type(module) is ChannelAffine3d:
        var_C, eps = torch.ones_like(module.weight), 0.0
    elif type(module) is MovingAverageBatchNorm3d:
        var_C, eps = module.running_mean_square, module.eps
    else:
        return read_running_affine(module)
    return RunningAffine(
        mean_C=torch.zeros_like(var_C, dtype=torch.float64),
        var_C=var_C.detach().double(),
        weight_C=module.weight.detach().double(),
        bias_C=module.bias.detach().double(),
        eps=eps,
    )


def is_timm_batch_norm(module: nn.Module) -> bool:
    """Returns whether it is timm's BatchNormAct2d: a batch norm, then its children drop and act."""
    return type(module).__name__ == "BatchNormAct2d" and type(module).__module__.startswith("timm.")


def find_normalizers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns by name what normalizes, once each: as `is_normalizer` says or as its class's name.

    The name counts for classes that this project does not know, so that none is passed over in
    silence. Containers do not count, nor do convolutions by normalized weights.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if is_normalizer(module)
        or (
            "norm" in type(module).__name__.lower()
            and not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
            and not any(module.children())
        )
    }


def describe_left_alone(left_alone: Mapping[tuple[str, str], tuple[str, ...]]) -> list[str]:
    """Returns one line for each (kind, reason): how many, and the first one's name."""
    lines: list[str] = []
    for (kind, reason), names in left_alone.items():
        shown = ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
        lines.append(f"{len(names)} {kind} left alone, which {reason}: {shown}")
    return lines
