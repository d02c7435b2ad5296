"""`eval`: accuracies of trained weights on a split, under a named protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gnvideo.build import (
    build_class_match,
    build_described_model,
    build_device_name,
    build_index,
)
from gnvideo.commands.evaluation import Evaluator, format_metrics
from gnvideo.comparison.run_folder import read_json
from gnvideo.config import RunConfig, load_config, make_config
from gnvideo.errors import ConfigError
from gnvideo.layers import NORMALIZERS
from gnvideo.training import distributed
from gnvideo.training.checkpoint import LoadedWeights, load_weights


def run_eval(
    path: Path,
    *,
    protocol: str | None,
    split: str | None,
    output: Path | None,
    overrides: Sequence[str],
) -> None:
    """Prints, and usually saves, the accuracies of the weights at `path`.

    Args:
        path: A run folder, a checkpoint's folder or a .safetensors file.
        protocol: None is the run's own.
        split: None is the run's validation split.
        output: Where to save. None is the run's `evaluation` folder, or for another split a folder
            in it; with overrides nothing is saved there, since the run's own result must stay.
        overrides: `key.sub=value` words over the run's configuration.
    """
    weights = load_weights(path)
    config = _make_config(path, weights, overrides)
    split = split or config.data.val_split
    if output is None and not overrides:
        output = config.output / "evaluation"
        output = output if split == config.data.val_split else output / split
    classes = weights.description.classes
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    with distributed.process_group(build_device_name(config.training.device)) as device:
        match = build_class_match(config.data, weights)
        if match.note and distributed.is_main_process():
            print(match.note)
        index = build_index(config.data, split, match.names)
        model = build_described_model(weights, config.data).to(device)
        name = protocol or config.evaluation.protocol
        evaluator = Evaluator(config, index, classes, name, split)
        result = evaluator.evaluate(model, device)
        if not distributed.is_main_process():
            return
        has_statistics = NORMALIZERS[config.normalizer.name].has_running_statistics
        statistics = "running" if has_statistics else "none"
        if output is None:
            print(format_metrics(evaluator.summarize(result)))
            print("not saved, since settings were overridden; --output FOLDER saves it")
            return
        summary_path = evaluator.save(result, weights.step, statistics, output)
        print(format_metrics(read_json(summary_path) or {}))
        print(f"saved {summary_path}")


def _make_config(path: Path, weights: LoadedWeights, overrides: Sequence[str]) -> RunConfig:
    """Returns the run's configuration, or for weights alone one that the overrides complete."""
    run_config = next(
        (
            folder / "config.yaml"
            for folder in (path, *path.absolute().parents[:3])
            if (folder / "config.yaml").is_file()
        ),
        None,
    )
    description = weights.description
    values: dict[str, Any] = {"data": {}}
    if run_config is not None:
        values = load_config(RunConfig, run_config).model_dump(mode="json")
    # The run folder may have been moved, and the recipe is the weights' own.
    values["output"] = str(weights.path.parent if run_config is None else run_config.parent)
    values["data"] |= dict(description.input_recipe)
    values["model"] = dict(description.model)
    values["normalizer"] = dict(description.normalizer)
    try:
        return make_config(RunConfig, values, overrides, source=str(run_config or weights.path))
    except ConfigError as error:
        if "'data.root' is missing" in str(error):
            raise ConfigError(
                f"{weights.path} stands in no run folder; say where the prepared data is with"
                " data.root=FOLDER"
            ) from None
        raise
