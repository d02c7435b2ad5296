"""What a normalizer is, which ones there are by name, and how to build one.

Initialization, weight decay, freezing, conversion and reports all ask here, so that no rule holds
for BatchNorm alone.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn
from torch.nn.modules.batchnorm import (
    _BatchNorm,  # pyright: ignore[reportPrivateUsage] (torch's only common base of its batch norms)
    _NormBase,  # pyright: ignore[reportPrivateUsage] (torch's only common base of batch and instance norms)
)

from gnvideo.errors import NormalizerError
from gnvideo.layers.group_norm import GroupNorm3d

_NORMALIZER_TYPES = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, GroupNorm3d)


@dataclass(frozen=True, slots=True)
class NormalizerSpec:
    """A normalizer that can be chosen by name.

    Attributes:
        name: The name in configurations, results and reports.
        description: One line for listings.
        uses_batch_statistics: Whether training normalizes a clip by other clips of the batch, so
            that evaluation needs running or recomputed statistics.
        build: `(num_channels, num_groups, eps, momentum) -> module`; takes what applies to it.
    """

    name: str
    description: str
    uses_batch_statistics: bool
    build: Callable[[int, int, float, float], nn.Module]


def _build_batch_norm(num_channels: int, num_groups: int, eps: float, momentum: float) -> nn.Module:
    return nn.BatchNorm3d(num_channels, eps=eps, momentum=momentum)


def _build_group_norm(num_channels: int, num_groups: int, eps: float, momentum: float) -> nn.Module:
    return GroupNorm3d(num_channels, num_groups, eps)


NORMALIZERS: Mapping[str, NormalizerSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            NormalizerSpec(
                name="batch",
                description="BatchNorm over one device's clips; running statistics in evaluation",
                uses_batch_statistics=True,
                build=_build_batch_norm,
            ),
            NormalizerSpec(
                name="group",
                description="GroupNorm over groups of channels of each clip by itself",
                uses_batch_statistics=False,
                build=_build_group_norm,
            ),
        )
    }
)


def make_normalizer(
    name: str,
    num_channels: int,
    *,
    num_groups: int = 32,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Module:
    """Returns the normalizer `name` for (N, num_channels, T, H, W).

    Args:
        name: A name in `NORMALIZERS`.
        num_channels: C.
        num_groups: Wanted number of groups, where the normalizer has groups.
        eps: Added to the variance.
        momentum: Weight of the newest batch in running statistics, where the normalizer has them.

    Raises:
        NormalizerError: The name is unknown, or the channels or groups are not positive.
    """
    return _find_spec(name).build(num_channels, num_groups, eps, momentum)


def normalizer_factory(
    name: str, *, num_groups: int = 32, eps: float = 1e-5, momentum: float = 0.1
) -> Callable[[int], nn.Module]:
    """Returns `num_channels -> module`, the form that models take; arguments as `make_normalizer`.

    Raises:
        NormalizerError: The name is unknown.
    """
    _find_spec(name)
    return functools.partial(
        make_normalizer, name, num_groups=num_groups, eps=eps, momentum=momentum
    )


def _find_spec(name: str) -> NormalizerSpec:
    if name not in NORMALIZERS:
        raise NormalizerError(
            f"unknown normalizer {name!r}; choose one of {', '.join(NORMALIZERS)}"
        )
    return NORMALIZERS[name]


def is_normalizer(module: nn.Module) -> bool:
    """Returns whether the module's weight and bias are a normalizer's scale and offset.

    True for gnvideo's normalizers and for torch's: batch (synchronized too), instance, group, layer
    and RMS norms, and their subclasses.
    """
    return isinstance(module, _NORMALIZER_TYPES)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Returns whether the module trains on the batch's statistics and evaluates on running ones."""
    return isinstance(module, _BatchNorm) and module.track_running_stats


def describe_normalizers(model: nn.Module) -> str:
    """Returns a model's normalizers by kind, such as `17 GroupNorm3d (32 groups)`."""
    counts: Counter[str] = Counter()
    for module in model.modules():
        if is_normalizer(module):
            num_groups = getattr(module, "num_groups", None)
            groups = "" if num_groups is None else f" ({num_groups} groups)"
            counts[type(module).__name__ + groups] += 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "none"
