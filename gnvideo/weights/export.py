"""A model's weights under the names of another project."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from gnvideo.errors import CheckpointError
from gnvideo.weights.layouts import LAYOUTS, find_layout, find_project, rename

# Where each project's loader looks for the weights; None is the file itself.
_CONTAINERS: Mapping[str, str | None] = MappingProxyType(
    {
        "pytorchvideo": "model_state",
        "pyslowfast": "model_state",
        "mmaction2": "state_dict",
        "torchvision": None,
    }
)

EXPORT_LAYOUTS = tuple(_CONTAINERS)

# Which projects have a network of these parts and kernels, by the layout of the model's own names.
_EXPORTABLE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gnvideo": ("pytorchvideo", "pyslowfast", "mmaction2"),
        "pytorchvideo": ("pytorchvideo", "pyslowfast", "mmaction2"),
        "pytorchvideo-slow": ("pytorchvideo", "pyslowfast", "mmaction2"),
        "torchvision": ("torchvision",),
    }
)


def export_layout(model: nn.Module, layout: str) -> dict[str, torch.Tensor]:
    """Returns the model's state dict under the names of a project, on the CPU.

    Only names change: the other program has to build the network with the same poolings, strides
    and normalizer.

    Args:
        model: A model of `gnvideo.models`.
        layout: A name in `EXPORT_LAYOUTS`.

    Raises:
        CheckpointError: the layout is unknown, or the project has no such network.
    """
    if layout not in EXPORT_LAYOUTS:
        raise CheckpointError(
            f"unknown layout {layout!r}; choose one of {', '.join(EXPORT_LAYOUTS)}"
        )
    # safetensors takes neither channels-last strides nor tensors of another device's memory.
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    own = find_layout(tensors)
    project = find_project(tensors)
    if own is not None:
        allowed = _EXPORTABLE.get(own.name, ())
    else:
        allowed = (project.name,) if project is not None and project.name in _CONTAINERS else ()
    if layout not in allowed:
        raise CheckpointError(
            f"{layout} has no network like this {type(model).__name__}; its weights can be written"
            f" for {', '.join(allowed) or 'no other project'}"
        )
    if own is None or own.name.startswith(layout):
        return tensors
    target = LAYOUTS[layout]
    renamed = {name: rename(name, own, target) for name in tensors}
    unknown = [name for name, new in renamed.items() if new is None]
    if unknown:
        raise CheckpointError(
            f"{layout} has no names for {len(unknown)} of the model's tensors"
            f" ({', '.join(unknown[:3])}); write it for {', '.join(allowed)} without them, or not"
        )
    return {renamed[name] or name: tensor for name, tensor in tensors.items()}


def pack_for_project(tensors: Mapping[str, torch.Tensor], layout: str) -> dict[str, Any]:
    """Returns what `torch.save` has to write so that the project's own loader finds the weights."""
    container = _CONTAINERS[layout]
    return dict(tensors) if container is None else {container: dict(tensors)}
