"""Puts anybody's weights into one of gnvideo's models, and accounts for every name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from gnvideo.errors import CheckpointError
from gnvideo.layers import (
    AdjustedConv3d,
    RunningAffine,
    fold_running_affine,
    has_running_statistics,
    is_normalizer,
)
from gnvideo.models import VideoClassifier
from gnvideo.weights.files import WeightsFile
from gnvideo.weights.inflation import can_inflate, inflate_kernel
from gnvideo.weights.layouts import LAYOUTS, Layout, find_layout, find_project, rename
from gnvideo.weights.report import TransferReport

# These name one network each by two names: pytorchvideo's zoo is PySlowFast's networks.
_EQUAL_LAYOUTS = frozenset({"pytorchvideo", "pytorchvideo-slow", "pyslowfast"})


@dataclass
class _Fit:
    """Which of the model's names get which values of the file, and which names find no partner."""

    values: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    inflated: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])
    unexpected: list[str] = field(default_factory=list[str])
    reshaped: list[str] = field(default_factory=list[str])


def transfer_weights(
    model: VideoClassifier, file: WeightsFile, classes: Sequence[str] | None = None
) -> TransferReport:
    """Copies the weights of a file into `model` as far as they fit, and says what it did.

    Names are translated from the file's layout to the model's. Kernels without time are inflated.
    Running statistics that a normalizer has no place for are folded into its scale and offset as
    `convert_normalizer` does (with the model's eps, since files hold none), or left out where that
    cannot be done. What a normalizer has beyond the file's stays at its start; so do parts that a
    plain ResNet does not have, such as non-local blocks. The head stays as it is if the file has
    none, one of another size, or one of other classes. Anything else that does not fit is an error,
    after which the model is as it was.

    Args:
        model: Changed in place; its parameters keep device, dtype and memory format.
        file: The weights.
        classes: The model's. A file of gnvideo brings its own, and its head is taken only if they
            are these; a file of another project is believed to be in the same order.

    Raises:
        CheckpointError: the file is of another network.
    """
    own = model.state_dict()
    source, target = find_layout(file.tensors), find_layout(own)
    if source is None and not own.keys() & file.tensors.keys():
        raise CheckpointError(
            f"{file.path} is of no known network: its {len(file.tensors)} names are like"
            f" {', '.join(list(file.tensors)[:3])}; known are the model's own names and the ResNets"
            f" of {', '.join(LAYOUTS)}; choose another model or rename them"
        )
    head = _find_name(model, model.get_classifier())
    named = _translate(file.tensors, source, target)
    fit = _fit(named, own, head)
    renewal = _find_renewal(file, classes, named, own, head)
    # What may be left as it is: parts that no plain ResNet has, normalizers and the head.
    free = {name for name in own if target and rename(name, target, target) is None}
    modules = {name for name, module in model.named_modules() if is_normalizer(module)}
    if renewal is not None:
        modules.add(head)
        fit.values = {name: t for name, t in fit.values.items() if not _is_below(name, {head})}
    free |= {name for name in own.keys() | named.keys() if _is_below(name, modules)}
    _check(fit, free, file, len(own))
    model.load_state_dict(own | fit.values)
    num_folded = _fold_statistics(model, named)
    known_as = source or find_project(file.tensors)
    return TransferReport(
        path=file.path,
        layout=known_as.name if known_as else "the model's own",
        normalizer=file.normalizer,
        num_tensors=len(file.tensors),
        num_taken=len(fit.values),
        inflated=tuple(fit.inflated),
        missing=tuple(fit.missing),
        unexpected=tuple(fit.unexpected),
        reshaped=tuple(fit.reshaped),
        head=head,
        head_renewal=renewal,
        ignored=file.ignored,
        pixels=file.pixels,
        notes=tuple(_list_notes(model, named, num_folded, source, target)),
    )


def _translate(
    tensors: dict[str, torch.Tensor], source: Layout | None, target: Layout | None
) -> dict[str, torch.Tensor]:
    """Returns the tensors by the model's names; a name without translation stays as it is."""
    if source is None or target is None or source == target:
        return dict(tensors)
    return {rename(name, source, target) or name: tensor for name, tensor in tensors.items()}


def _find_renewal(
    file: WeightsFile,
    classes: Sequence[str] | None,
    named: dict[str, torch.Tensor],
    own: dict[str, torch.Tensor],
    head: str,
) -> str | None:
    """Returns why the model's head stays as it is; None if the file's is taken."""
    theirs, ours = named.get(f"{head}.weight"), own[f"{head}.weight"]
    if theirs is None:
        return "the file has none"
    if theirs.shape[0] != ours.shape[0]:
        return f"the file's has {theirs.shape[0]} outputs and the model {ours.shape[0]}"
    if classes is not None and file.classes is not None and tuple(classes) != file.classes:
        return "the file's is of other classes"
    return None


def _fit(named: dict[str, torch.Tensor], own: dict[str, torch.Tensor], head: str) -> _Fit:
    fit = _Fit(unexpected=[name for name in named if name not in own])
    for name, place in own.items():
        tensor = named.get(name)
        if tensor is None:
            fit.missing.append(name)
        elif tensor.shape == place.shape:
            fit.values[name] = tensor
        elif can_inflate(tensor.shape, place.shape):
            fit.values[name] = inflate_kernel(tensor, place.shape[2])
            if place.shape[2] > 1:
                fit.inflated.append(name)
        # A linear layer written as a convolution of one position.
        elif name == f"{head}.weight" and tensor.numel() == place.numel():
            fit.values[name] = tensor.reshape(place.shape)
        else:
            fit.reshaped.append(name)
    return fit


def _check(fit: _Fit, free: set[str], file: WeightsFile, num_own: int) -> None:
    """Raises CheckpointError if names found no partner that are not free to have none."""
    problems: list[str] = []
    for kind, names in (
        ("missing", fit.missing),
        ("unexpected", fit.unexpected),
        ("of another shape", fit.reshaped),
    ):
        names = [name for name in names if name not in free]
        if names:
            first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            problems.append(f"{len(names)} {kind} ({first})")
    if problems:
        raise CheckpointError(
            f"{file.path} is of another network than the model: of its {len(file.tensors)} tensors"
            f" and the model's {num_own}, {', '.join(problems)}; choose the model that it is of"
        )


def _fold_statistics(model: VideoClassifier, named: dict[str, torch.Tensor]) -> int:
    """Returns how many normalizers got the file's statistics in their scale and offset."""
    # Convolutions that compute their weight give outputs of other statistics.
    if any(isinstance(module, AdjustedConv3d) for module in model.modules()):
        return 0
    num_folded = 0
    for name, module in model.named_modules():
        leaves = ("running_mean", "running_var", "weight", "bias")
        values = [named.get(f"{name}.{leaf}") for leaf in leaves]
        if not is_normalizer(module) or hasattr(module, "running_var") or None in values:
            continue
        mean_C, var_C, weight_C, bias_C = (value.double() for value in values if value is not None)
        # Those that divide by nothing have no eps, and are not folded into.
        eps = getattr(module, "eps", 0.0)
        affine = RunningAffine(mean_C, var_C, weight_C, bias_C, eps)
        num_folded += fold_running_affine(module, affine)
    return num_folded


def _list_notes(
    model: VideoClassifier,
    named: dict[str, torch.Tensor],
    num_folded: int,
    source: Layout | None,
    target: Layout | None,
) -> list[str]:
    """Returns what a user has to know who expects the source's accuracy."""
    notes: list[str] = []
    has_statistics = any(name.endswith(("running_mean", "running_var")) for name in named)
    wants_statistics = any(has_running_statistics(module) for module in model.modules())
    has_place = any(name.endswith("running_var") for name in model.state_dict())
    if has_statistics and not has_place:
        how = (
            f"{num_folded} running statistics were folded into scales and offsets"
            if num_folded
            else "scales and offsets were copied and running statistics left out"
        )
        notes.append(
            f"the file is of BatchNorm and the model is not: {how}; outputs are not the source's"
            " until the model is trained"
        )
    if wants_statistics and not has_statistics:
        notes.append(
            "the file has no running statistics and the model evaluates by them: they stay at mean"
            " 0 and variance 1 until the model is trained"
        )
    is_of_videos = any(tensor.ndim == 5 for tensor in named.values())
    if (
        source is not None
        and target is not None
        and source != target
        and is_of_videos
        and not {source.name, target.name} <= _EQUAL_LAYOUTS
    ):
        notes.append(
            f"names and shapes of {source.name} fit, but this model's poolings and strides are its"
            " own: outputs are the source's only where these are equal too, as they are in"
            " pytorchvideo_* for pytorchvideo and PySlowFast, and in i3d_r50_mmaction2"
        )
    return notes


def _find_name(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _is_below(name: str, modules: set[str]) -> bool:
    """Returns whether a parameter is of one of the modules or of a part of it."""
    parts = name.split(".")[:-1]
    return any(".".join(parts[:end]) in modules for end in range(len(parts), 0, -1))
