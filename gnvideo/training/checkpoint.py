"""Checkpoints: a folder `checkpoints/step_<n>/` appears complete under its name, or not at all.

`model.safetensors` holds the weights and, in its metadata, all that is needed to use them;
`training_state.pt` holds what training goes on from, and loads with `weights_only=True`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

import gnvideo
from gnvideo.errors import CheckpointError, OutputError, SaveFailedError

CHECKPOINTS_FOLDER_NAME = "checkpoints"
WEIGHTS_NAME = "model.safetensors"
TRAINING_STATE_NAME = "training_state.pt"

_NAME_PATTERN = re.compile(r"step_(\d{8,})")
_PARTIAL_PREFIX = ".partial_"

# The user chose a place that cannot be written; any other failure is the work's.
_PLACE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class ModelDescription:
    """What a user of the weights must know, as plain values that JSON can hold.

    Attributes:
        classes: Names; position = index of the logit.
        input_recipe: How clips are made of a video: frames, stride, sizes, mean, std.
        model: The model's name and settings.
        normalizer: The normalizer's name and settings.
    """

    classes: tuple[str, ...]
    input_recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    normalizer: Mapping[str, Any]


@dataclass(frozen=True)
class LoadedWeights:
    """A model file's contents: `tensors` on the CPU by state-dict key; `path` is the file."""

    tensors: dict[str, torch.Tensor]
    description: ModelDescription
    step: int
    gnvideo_version: str
    path: Path


class CheckpointFolder:
    """The checkpoints of one run. Keeps the last one."""

    def __init__(self, run_folder: Path, description: ModelDescription) -> None:
        self._run_folder = run_folder
        self._folder = run_folder / CHECKPOINTS_FOLDER_NAME
        self._description = description

    def find_last(self) -> Path | None:
        """Returns the folder of the last complete checkpoint, or None."""
        return find_last_checkpoint(self._run_folder)

    def remove_partial(self) -> None:
        """Removes what an interrupted save left. One process calls it, before training."""
        for path in self._folder.glob(f"{_PARTIAL_PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)

    def save(self, model: nn.Module, training_state: Mapping[str, Any], step: int) -> Path:
        """Writes the checkpoint of `step`, then removes earlier ones; returns its folder.

        Args:
            model: Its whole state dict is written.
            training_state: Tensors, numbers, strings, None, and dicts and lists of them.
            step: Of the checkpoint.

        Raises:
            OutputError: the folder cannot be written to.
            SaveFailedError: writing failed half-way, as on a full disk. Earlier checkpoints stand,
                and nothing stands under this one's name.
        """
        final = self._folder / f"step_{step:08d}"
        partial = self._folder / f"{_PARTIAL_PREFIX}{final.name}"
        # Made in memory first: on a full disk a plain write fails with a plain OSError, where the
        # writers of safetensors and torch each fail in their own way.
        weights = serialize_weights(model, self._description, step)
        state = io.BytesIO()
        torch.save(dict(training_state), state)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            _write_synced(partial / WEIGHTS_NAME, weights)
            _write_synced(partial / TRAINING_STATE_NAME, state.getbuffer())
            _sync_folder(partial)
            if final.exists():
                # Incomplete, or training would not have come to this step again.
                shutil.rmtree(final)
            partial.rename(final)
            _sync_folder(self._folder)
            _sync_folder(self._run_folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            cause = error.strerror or str(error)
            if error.errno in _PLACE_ERRORS:
                raise OutputError(
                    f"cannot write checkpoints to {self._folder}: {cause}; choose another run"
                    " folder or mend its permissions"
                ) from error
            raise SaveFailedError(
                f"cannot save the checkpoint {final}: {cause}; free space or mend the disk, then"
                " run the same command to go on from the last checkpoint"
            ) from error
        for earlier in _list_complete(self._folder):
            if earlier != final:
                shutil.rmtree(earlier, ignore_errors=True)
        return final


def serialize_weights(model: nn.Module, description: ModelDescription, step: int) -> bytes:
    """Returns the content of a file that `load_weights` reads: the model's whole state dict."""
    # safetensors takes neither channels-last strides nor tensors of another device's memory.
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    return safetensors.torch.save(tensors, make_metadata(description, step))


def make_metadata(description: ModelDescription, step: int) -> dict[str, str]:
    """Returns what stands beside weights in a file of any format: JSON texts by name."""
    return {
        "classes": json.dumps(description.classes, ensure_ascii=False),
        "input_recipe": json.dumps(dict(description.input_recipe)),
        "model": json.dumps(dict(description.model)),
        "normalizer": json.dumps(dict(description.normalizer)),
        "step": str(step),
        "gnvideo_version": gnvideo.__version__,
    }


def find_last_checkpoint(run_folder: Path) -> Path | None:
    """Returns the folder of the run's last complete checkpoint, or None."""
    complete = _list_complete(run_folder / CHECKPOINTS_FOLDER_NAME)
    return complete[-1] if complete else None


def load_weights(path: Path) -> LoadedWeights:
    """Returns the weights at `path`: a run folder, a checkpoint's folder or a .safetensors file.

    Raises:
        CheckpointError: there is none, it is damaged, or it was not written by gnvideo.
    """
    file = find_weights_file(path)
    try:
        # `get_tensor` copies nothing until asked, and checks the file's length at opening.
        with safetensors.safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {file}: {error}; the file is damaged: remove its folder, or take another"
            " checkpoint"
        ) from error
    try:
        description = ModelDescription(
            classes=tuple(json.loads(metadata["classes"])),
            input_recipe=json.loads(metadata["input_recipe"]),
            model=json.loads(metadata["model"]),
            normalizer=json.loads(metadata["normalizer"]),
        )
        step, version = int(metadata["step"]), metadata["gnvideo_version"]
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{file} has no gnvideo description of its model ({error}); pass a file that gnvideo"
            " train wrote"
        ) from error
    return LoadedWeights(tensors, description, step, version, file)


def load_training_state(checkpoint: Path) -> dict[str, Any]:
    """Returns the training state in a checkpoint's folder, tensors on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = checkpoint / TRAINING_STATE_NAME
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file raises whatever its first wrong byte leads to.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot read {path}: {reason}; the file is damaged: remove the folder {checkpoint} to"
            " start without it"
        ) from error


def load_into_model(model: nn.Module, weights: LoadedWeights) -> None:
    """Copies the weights into `model`, whose parameters keep device, dtype and memory format.

    Raises:
        CheckpointError: the model has other keys or shapes; says how many, and the first names.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights.tensors]
    unexpected = sorted(name for name in weights.tensors if name not in own)
    reshaped = [
        f"{name} {tuple(weights.tensors[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights.tensors and weights.tensors[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{weights.path} belongs to another model: of its {len(weights.tensors)} tensors and"
            f" the model's {len(own)}, {', '.join(problems)}; use the model, normalizer and classes"
            " of the checkpoint"
        )
    model.load_state_dict(weights.tensors)


def find_weights_file(path: Path) -> Path:
    """Returns the file of weights at `path`: a run folder, a checkpoint's folder or any file.

    Raises:
        CheckpointError: there is none.
    """
    if path.is_file():
        return path
    if (path / WEIGHTS_NAME).is_file():
        return path / WEIGHTS_NAME
    last = find_last_checkpoint(path)
    if last is None:
        raise CheckpointError(
            f"no checkpoint at {path}; pass a run folder, a folder {CHECKPOINTS_FOLDER_NAME}/step_*"
            " or a file of weights"
        )
    return last / WEIGHTS_NAME


def _list_complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    steps = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _NAME_PATTERN.fullmatch(path.name))
        and all((path / name).is_file() for name in (WEIGHTS_NAME, TRAINING_STATE_NAME))
    }
    return [steps[step] for step in sorted(steps)]


def _write_synced(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
