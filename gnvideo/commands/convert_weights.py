"""`convert-weights`: a file of weights from another project's form to gnvideo's, or back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from gnvideo.atomic_file import open_atomic
from gnvideo.build import (
    build_described_model,
    build_initialized_model,
    build_recipe,
    describe_model,
)
from gnvideo.config import RunConfig, make_config
from gnvideo.data.class_list import read_class_file
from gnvideo.errors import CheckpointError, ConfigError, OutputError
from gnvideo.training.checkpoint import find_weights_file, load_weights, serialize_weights
from gnvideo.weights import export_layout, pack_for_project, read_weights_file, transfer_weights

_OWN_SUFFIX = ".safetensors"


def run_convert_weights(
    source: Path,
    *,
    output: Path,
    model_name: str | None,
    normalizer_name: str | None,
    class_file: Path | None,
    layout: str | None,
    overrides: Sequence[str],
) -> None:
    """Writes the weights at `source` as a file of gnvideo's, or for another project.

    Args:
        source: A file of any project; or with `layout` a run folder, a checkpoint's folder or a
            file of gnvideo.
        output: The file to write, which must not exist.
        model_name: The network that the weights are of.
        normalizer_name: None is batch where the file has running statistics, and else group.
        class_file: One class a line, in the order of the network's outputs; None is that of the
            file, if gnvideo wrote it.
        layout: Instead of model_name: the project whose names the file gets.
        overrides: `key.sub=value` words on the network and the clips that it takes.

    Raises:
        ConfigError: neither or both of model_name and layout are given, or what goes with one is
            given with the other.
        OutputError: the output exists or cannot be written.
        CheckpointError: the weights do not fit.
    """
    if (model_name is None) == (layout is None):
        raise ConfigError(
            "give --model NAME to read another project's weights, or --layout NAME to write for one"
        )
    if output.exists():
        raise OutputError(f"{output} exists; choose another --output or remove it")
    if layout is not None:
        if normalizer_name is not None or class_file is not None or overrides:
            raise ConfigError(
                "--layout writes the weights as they are; remove --normalizer, --classes and"
                " key.sub=value"
            )
        _write_for_project(source, output, layout)
        return
    if output.suffix != _OWN_SUFFIX:
        raise ConfigError(f"--output is {output}; gnvideo's weights end in {_OWN_SUFFIX}")
    file = read_weights_file(find_weights_file(source))
    classes = file.classes if class_file is None else read_class_file(class_file)
    if classes is None:
        raise ConfigError(
            f"{source} has no class names; give --classes FILE, one a line in the order of the"
            " network's outputs"
        )
    has_statistics = any(name.endswith("running_mean") for name in file.tensors)
    data: dict[str, Any] = {"root": ""}
    if file.pixels is not None:
        data |= {"mean": file.pixels.mean, "std": file.pixels.std}
    normalizer_name = normalizer_name or ("batch" if has_statistics else "group")
    values: dict[str, Any] = {
        "output": "",
        "model": {"name": model_name},
        "normalizer": {"name": normalizer_name},
        "data": data,
    }
    config = make_config(RunConfig, values, overrides, source="convert-weights")
    model = build_initialized_model(config, len(classes))
    report = transfer_weights(model, file, classes)
    if report.head_renewal is not None:
        raise CheckpointError(
            f"the head of {source} cannot be taken: {report.head_renewal}; give --classes with its"
            " classes, or start a training from the file with training.initial_weights"
        )
    with open_atomic(output) as opened:
        opened.write(serialize_weights(model, describe_model(config, classes), step=0))
    for line in report.format_lines(config.data.mean, config.data.std):
        print(line)
    print(
        f"clips as eval will make them: {config.data.num_frames} frames, stride"
        f" {config.data.stride}, crop {config.data.crop_pixels} of short side"
        f" {config.data.test_short_side_pixels}; give data.num_frames=, data.stride= and so on if"
        " the source used others"
    )
    print(f"{output}: {config.model.name}, normalizer {normalizer_name}, {len(classes)} classes")


def _write_for_project(source: Path, output: Path, layout: str) -> None:
    weights = load_weights(source)
    data = build_recipe(weights, {"root": ""})
    tensors = export_layout(build_described_model(weights, data), layout)
    with open_atomic(output) as opened:
        if output.suffix == _OWN_SUFFIX:
            opened.write(safetensors.torch.save(tensors))
        else:
            # In memory first: on a full disk torch's writer fails in its own way.
            content = io.BytesIO()
            torch.save(pack_for_project(tensors, layout), content)
            opened.write(content.getbuffer())
    print(f"{output}: {len(tensors)} tensors under the names of {layout}")
    print(
        f"normalizer {weights.description.normalizer.get('name')}, input RGB in 0..1 minus"
        f" {list(data.mean)} over {list(data.std)}, {data.num_frames} frames at stride"
        f" {data.stride}; poolings and strides are those of {weights.description.model.get('name')}"
    )
