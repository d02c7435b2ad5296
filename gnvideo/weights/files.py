"""Reads anybody's file of weights: tensors under the names of its network, and no code from it."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import torch

from gnvideo.errors import CheckpointError
from gnvideo.weights.caffe2_pickle import load_blobs
from gnvideo.weights.detectron import convert_blobs
from gnvideo.weights.layouts import PixelScale, find_layout, find_project

# Where training programs keep the weights beside their own state, in the order of preference:
# PySlowFast and pytorchvideo's zoo; mmaction2, timm and Lightning; torchvision's references.
_CONTAINERS = ("model_state", "state_dict", "model", "model_state_dict")

# What wrappers put before the name of every tensor. torch.compile does so within names, too.
_PREFIXES = ("module.", "model.")
_COMPILED = "_orig_mod."

_GLOBAL = re.compile(r"(?:GLOBAL|global) `?([\w.]+)`?")


@dataclass(frozen=True)
class WeightsFile:
    """What was read of a file of weights.

    Attributes:
        path: The file.
        tensors: On the CPU, by name, without the prefixes of wrappers.
        ignored: What else the file holds, by name.
        classes: Of a file that gnvideo wrote; None of any other.
        normalizer: Likewise.
        pixels: The input that the weights were made with: as a file of gnvideo says, or as the
            project uses whose layout the names have; None if unknown.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    ignored: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    normalizer: str | None = None
    pixels: PixelScale | None = None


def read_weights_file(path: Path) -> WeightsFile:
    """Returns the weights in a file of any project.

    `.safetensors`; `.pkl`, as Detectron's pickled blobs; anything else as torch wrote it, with
    `weights_only=True`. The weights may be all that there is or stand under `model_state`,
    `state_dict`, `model` or `model_state_dict`.

    Raises:
        CheckpointError: the file is missing or damaged, asks for code, or holds no weights.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}; give a .pth, .pyth, .pkl or .safetensors file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pkl":
        blobs = load_blobs(path)
        ignored = tuple(name for name in blobs if name.endswith("_momentum"))
        return _make_foreign_file(path, convert_blobs(blobs), ignored)
    return _read_torch(path)


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            metadata = cast(dict[str, str], opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; the file is damaged") from error
    if "gnvideo_version" not in metadata:
        return _make_foreign_file(path, tensors)
    try:
        recipe = json.loads(metadata["input_recipe"])
        return WeightsFile(
            path,
            tensors,
            classes=tuple(json.loads(metadata["classes"])),
            normalizer=json.loads(metadata["normalizer"])["name"],
            pixels=PixelScale(tuple(recipe["mean"]), tuple(recipe["std"])),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} has a damaged gnvideo description ({error}); take another checkpoint"
        ) from error


def _read_torch(path: Path) -> WeightsFile:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _make_refusal(path, str(error)) from error
    # A damaged file raises whatever its first wrong byte leads to.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot read {path}: {reason}; give a file of torch.save or a .safetensors file"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; give a file of a state dict"
        )
    top = cast(Mapping[str, Any], content)
    for name in _CONTAINERS:
        if isinstance(top.get(name), Mapping):
            weights = cast(Mapping[str, Any], top[name])
            ignored = [other for other in top if other != name]
            break
    else:
        weights, ignored = top, []
    tensors = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    ignored += [name for name in weights if name not in tensors]
    if not tensors:
        raise CheckpointError(
            f"{path} holds no weights: neither tensors nor {', '.join(_CONTAINERS)}, but"
            f" {', '.join(map(str, list(top)[:5])) or 'nothing'}; save the network's state dict"
        )
    return _make_foreign_file(path, tensors, tuple(map(str, ignored)))


def _make_foreign_file(
    path: Path, tensors: Mapping[str, torch.Tensor], ignored: tuple[str, ...] = ()
) -> WeightsFile:
    stripped = strip_prefixes(tensors)
    made_by = find_layout(stripped) or find_project(stripped)
    return WeightsFile(path, stripped, ignored, pixels=None if made_by is None else made_by.pixels)


def strip_prefixes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors without the prefixes of wrappers that all names share, however many."""
    stripped = {name.replace(_COMPILED, ""): tensor for name, tensor in tensors.items()}
    while stripped:
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in stripped)), None)
        if prefix is None:
            break
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped


def _make_refusal(path: Path, message: str) -> CheckpointError:
    """Returns the error of a pickle that torch did not run."""
    named = _GLOBAL.search(message)
    what = f"asks for {named[1]}" if named else "is no plain file of tensors"
    return CheckpointError(
        f"{path} {what}, and code of a file is not run; if you trust it, save its weights alone:"
        f" `import torch; c = torch.load({str(path)!r}, weights_only=False);"
        " torch.save(c['model'], 'weights.pth')`, with the name that the weights have in it"
        f" ({', '.join(_CONTAINERS)})"
    )
