"""Replaces the batch norms of any network by another normalizer that starts close to them.

A batch norm evaluates by the running mean and variance of each channel. If a clip had exactly these
statistics, every other normalizer's would follow from them; its scale and offset are chosen so that
for such a clip it gives what the batch norm gave.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers.batch_norm import BatchNorm3d
from gnvideo.layers.catalog import NormalizerSpec
from gnvideo.layers.factory import normalizer_factory
from gnvideo.layers.frozen_batch_norm import FrozenBatchNorm3d
from gnvideo.layers.group_norm import GroupNorm3d
from gnvideo.layers.normalizer import describe_kind
from gnvideo.layers.rms_group_norm import RmsGroupNorm3d
from gnvideo.layers.running_affine import (
    RunningAffine,
    describe_left_alone,
    find_normalizers,
    is_timm_batch_norm,
    read_running_affine,
)
from gnvideo.layers.switchable_norm import SwitchableNorm3d


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What `convert_normalizer` did; as text, a line for each old kind and for what it left.

    Attributes:
        converted: Number of modules by (old kind, new kind).
        left_alone: Names of the normalizers that are as they were, by (kind, reason).
    """

    converted: Mapping[tuple[str, str], int]
    left_alone: Mapping[tuple[str, str], tuple[str, ...]]

    def __str__(self) -> str:
        new_kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (old, new), count in self.converted.items():
            new_kinds[old][new] += count
        lines = [
            f"{counts.total()} {old} -> "
            + ", ".join(f"{count} {new}" for new, count in counts.most_common())
            for old, counts in new_kinds.items()
        ]
        return "\n".join(lines + describe_left_alone(self.left_alone))


def convert_normalizer(model: nn.Module, name: str, **settings: Any) -> ConversionReport:
    """Replaces, in place, every batch norm of a network by the normalizer `name`; returns a report.

    With mean_c and var_c a batch norm's running statistics, weight and bias are set so that the new
    normalizer's output equals the batch norm's in evaluation for every clip whose channels have
    these means and variances. GroupNorm, for one, with m and v the group's mean and variance
    then, v = mean_c(var_c + mean_c^2) - m^2, gets
        weight = weight_bn * sqrt(v + eps) / sqrt(var_c + eps_bn)
        bias   = bias_bn + weight_bn * (m - mean_c) / sqrt(var_c + eps_bn)
    A clip has other statistics, so its logits differ, and the network has to be trained on.
    Normalizers with running statistics take over those of the batch norm.

    Names, training mode, device, dtype, activation and `requires_grad` are kept; a module that is
    registered twice stays one. Hooks on batch norms are not taken over. Convert before the
    optimizer or DistributedDataParallel is made: they hold the old parameters.

    Args:
        model: Any network with batch norms of torch, of gnvideo, or timm's BatchNormAct2d: its own,
            torchvision's, pytorchvideo's, timm's. Those for images, (N, C, H, W), become
            torch's `nn.GroupNorm` where `name` is group, layer or instance, and nothing else.
        name: A name in `NORMALIZERS` that takes plain convolutions and no activation's place.
        **settings: Those of `NormalizerSettings` that are not at their defaults; eps and momentum
            are those of the replaced batch norm.

    Raises:
        NormalizerError: The name is unknown or needs another network, or the model has no batch
            norm that can be replaced. The model is then unchanged.
    """
    _check_target(normalizer_factory(name, **settings).spec)
    has_clips = any(isinstance(module, nn.Conv3d) for module in model.modules())

    replacements: dict[nn.Module, nn.Module] = {}
    converted: Counter[tuple[str, str]] = Counter()
    left_alone: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for path, module in find_normalizers(model).items():
        affine = read_running_affine(module)
        if isinstance(affine, str) or isinstance(module, nn.BatchNorm1d):
            reason = affine if isinstance(affine, str) else "normalizes vectors"
            left_alone[describe_kind(module), reason].append(path)
            continue
        for_images = isinstance(module, nn.BatchNorm2d) or (
            isinstance(module, nn.SyncBatchNorm) and not has_clips
        )
        replacement = _make_replacement(module, affine, for_images, name, settings)
        replacements[module] = replacement
        converted[describe_kind(module), describe_kind(replacement)] += 1

    report = ConversionReport(
        MappingProxyType(dict(converted)),
        MappingProxyType({key: tuple(paths) for key, paths in left_alone.items()}),
    )
    if model in replacements:
        raise NormalizerError(
            f"the model is itself a {type(model).__name__}, which cannot be replaced in place; "
            f"give the network that holds it"
        )
    if not replacements:
        raise NormalizerError(
            f"{type(model).__name__} has no batch norm that can be replaced by {name}"
            + "".join(f"; {line}" for line in describe_left_alone(report.left_alone))
        )
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module in replacements:
            model.set_submodule(path, replacements[module])
    return report


def _check_target(spec: NormalizerSpec) -> None:
    if spec.replaces_activation:
        reason = "has a nonlinearity of its own, and the network's activations would come on top"
    elif spec.conv_type is not nn.Conv3d:
        reason = f"needs other convolutions before it ({spec.conv_type.__name__})"
    else:
        return
    raise NormalizerError(
        f"a network cannot be converted to {spec.name}, which {reason}; build the network with "
        f"{spec.name} from the start"
    )


def _make_replacement(
    module: nn.Module,
    affine: RunningAffine,
    for_images: bool,
    name: str,
    settings: Mapping[str, Any],
) -> nn.Module:
    """Returns what stands in the place of a batch norm, folded, in its mode, device and dtype."""
    kept: dict[str, Any] = {"eps": affine.eps}
    momentum = getattr(module, "momentum", None)
    if momentum is not None:
        kept["momentum"] = momentum
    factory = normalizer_factory(name, **{**kept, **settings})
    new = factory(affine.mean_C.numel(), getattr(module, "activation", None))
    if for_images:
        new = _make_for_images(module, new, name)

    assert isinstance(module.running_mean, torch.Tensor)
    like = module.weight if isinstance(module.weight, torch.Tensor) else module.running_mean
    new.to(device=like.device, dtype=like.dtype)
    can_fold = fold_running_affine(new, affine)
    assert can_fold
    with torch.no_grad():
        for buffer_name in ("running_mean", "running_var", "num_batches_tracked"):
            source, target = (getattr(m, buffer_name, None) for m in (module, new))
            if source is not None and target is not None:
                target.copy_(source)
    for parameter_name, parameter in module.named_parameters(recurse=False):
        new.get_parameter(parameter_name).requires_grad_(parameter.requires_grad)
    # pytorchvideo's mark of a residual block's last normalizer, by which models find it.
    if hasattr(module, "block_final_bn"):
        new.block_final_bn = module.block_final_bn
    return new.train(module.training)


@torch.no_grad()
def fold_running_affine(norm: nn.Module, affine: RunningAffine) -> bool:
    """Sets weight and bias so that for clips of these statistics the output is the affine map's.

    Returns whether it did: not of normalizers that follow from more than the channels' mean and
    variance, which are left as they are.
    """
    for types, fold in _FOLDS:
        if isinstance(norm, types):
            fold(norm, affine)
            return True
    return False


def _make_for_images(module: nn.Module, for_clips: nn.Module, name: str) -> nn.Module:
    """Returns torch's group norm that does on (N, C, H, W) what `for_clips` does on clips."""
    if not isinstance(for_clips, GroupNorm3d):
        raise NormalizerError(
            f"a network for images ({type(module).__name__}) cannot be converted to {name}; "
            f"choose one of group, layer, instance"
        )
    if not is_timm_batch_norm(module):
        return nn.GroupNorm(for_clips.num_groups, for_clips.num_channels, for_clips.eps)
    from timm.layers import GroupNormAct

    # timm's own class, so that the keys are those of a network that timm builds with it.
    new = GroupNormAct(for_clips.num_channels, for_clips.num_groups, for_clips.eps, apply_act=False)
    new.drop = module.get_submodule("drop")
    new.act = module.get_submodule("act")
    return new


def _fold_group(norm: Any, affine: RunningAffine) -> None:
    """Group, layer and instance norm: mean and variance of each group."""
    mean_GD = affine.mean_C.reshape(norm.num_groups, -1)
    center_G1 = mean_GD.mean(1, keepdim=True)
    var_GD = affine.var_C.reshape(norm.num_groups, -1) + (mean_GD - center_G1).square()
    scale_G1 = (var_GD.mean(1, keepdim=True) + norm.eps).sqrt()
    _set_affine(
        norm, affine, center_G1.expand_as(mean_GD).flatten(), scale_G1.expand_as(mean_GD).flatten()
    )


def _fold_rms_group(norm: Any, affine: RunningAffine) -> None:
    """Root mean square of each group; nothing is subtracted."""
    square_GD = (affine.var_C + affine.mean_C.square()).reshape(norm.num_groups, -1)
    scale_G1 = (square_GD.mean(1, keepdim=True) + norm.eps).sqrt()
    _set_affine(
        norm, affine, torch.zeros_like(affine.mean_C), scale_G1.expand_as(square_GD).flatten()
    )


def _fold_switchable(norm: Any, affine: RunningAffine) -> None:
    """The mixture, in which the instance's statistics equal the batch's."""
    layer_mean = affine.mean_C.mean()
    layer_var = (affine.var_C + (affine.mean_C - layer_mean).square()).mean()
    _, layer_share, _ = norm.mean_logits.double().softmax(0)
    center_C = affine.mean_C.lerp(layer_mean, layer_share)
    _, layer_share, _ = norm.var_logits.double().softmax(0)
    scale_C = (affine.var_C.lerp(layer_var, layer_share) + norm.eps).sqrt()
    _set_affine(norm, affine, center_C, scale_C)


def _fold_running(norm: Any, affine: RunningAffine) -> None:
    """Batch norms, which evaluate by running statistics: exact for every clip."""
    _set_affine(norm, affine, affine.mean_C, (affine.var_C + norm.eps).sqrt())


def _set_affine(
    norm: Any, affine: RunningAffine, center_C: torch.Tensor, scale_C: torch.Tensor
) -> None:
    """Sets weight and bias so that (x - center) / scale * weight + bias is the affine map."""
    norm.weight.copy_(affine.slope_C * scale_C)
    norm.bias.copy_(affine.bias_C + affine.slope_C * (center_C - affine.mean_C))


# The first that fits; subclasses stand before their base.
_FOLDS: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Any, RunningAffine], None]], ...] = (
    ((GroupNorm3d, nn.GroupNorm), _fold_group),
    ((RmsGroupNorm3d,), _fold_rms_group),
    ((SwitchableNorm3d,), _fold_switchable),
    ((BatchNorm3d, FrozenBatchNorm3d), _fold_running),
)
