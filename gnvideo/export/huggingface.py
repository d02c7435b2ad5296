"""Weights as a folder in the layout of the Hugging Face hub; gnvideo reads it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gnvideo
from gnvideo.atomic_file import make_folder_atomic, open_atomic, write_text_atomic
from gnvideo.export.model_card import MeasuredAccuracy, format_model_card
from gnvideo.models import VideoClassifier
from gnvideo.training.checkpoint import WEIGHTS_NAME, ModelDescription, serialize_weights

# Pillow's number of bilinear interpolation, by which the hub's processors name it.
_BILINEAR = 2


def save_huggingface_folder(
    model: VideoClassifier,
    description: ModelDescription,
    step: int,
    accuracies: Sequence[MeasuredAccuracy],
    folder: Path,
) -> None:
    """Writes `model.safetensors`, `config.json`, `preprocessor_config.json` and `README.md`.

    Args:
        model: The network with its weights.
        description: Of the weights.
        step: Optimizer steps that made them.
        accuracies: All that were measured with them; may be empty.
        folder: Must not exist.

    Raises:
        OutputError: The folder exists, or cannot be written.
        SaveFailedError: Writing failed half-way; there is no folder.
    """
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = format_model_card(description, step, num_parameters, accuracies)
    with make_folder_atomic(folder) as partial:
        with open_atomic(partial / WEIGHTS_NAME) as file:
            file.write(serialize_weights(model, description, step))
        _write_json(partial / "config.json", _make_config(description, step))
        _write_json(
            partial / "preprocessor_config.json", _make_preprocessor(description.input_recipe)
        )
        write_text_atomic(partial / "README.md", card)


def _make_config(description: ModelDescription, step: int) -> dict[str, Any]:
    """Returns the settings; names that the hub's other video models have are as there."""
    return {
        "architecture": description.model["name"],
        "num_classes": len(description.classes),
        "num_frames": description.input_recipe["num_frames"],
        "frame_sample_rate": description.input_recipe["stride"],
        "image_size": description.input_recipe["crop_pixels"],
        "model": dict(description.model),
        "normalizer": dict(description.normalizer),
        "input_recipe": dict(description.input_recipe),
        "step": step,
        "gnvideo_version": gnvideo.__version__,
        "id2label": {str(index): name for index, name in enumerate(description.classes)},
        "label2id": {name: index for index, name in enumerate(description.classes)},
    }


def _make_preprocessor(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the steps from frames to the network's input as the hub's processors name them.

    Source: github.com/huggingface/transformers, models/videomae, `VideoMAEImageProcessor`.
    """
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": recipe["test_short_side_pixels"]},
        "resample": _BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": recipe["crop_pixels"], "width": recipe["crop_pixels"]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(recipe["mean"]),
        "image_std": list(recipe["std"]),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
