"""Decides which runs a comparison has, how they are named, and in which order they start."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gnvideo.config import (
    ComparisonConfig,
    GridNormalizer,
    NormalizerConfig,
    RunConfig,
    make_config,
    make_normalizer_label,
)
from gnvideo.errors import ConfigError

_KEYS_OF_THE_GRID = (
    "seed",
    "output",
    "normalizer.name",
    "training.clips_per_batch",
    "training.accumulation_steps",
)
_KEYS_OF_CLIP_SHAPES = ("data.num_frames", "data.stride")
_KEYS_OF_INITIAL_WEIGHTS = ("training.initial_weights",)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        name: Says normalizer, clip shape, clips per batch and seed: `group_8f2_4clips_seed0`, or
            `group-num_groups=16_8f2_4clips_seed0`.
        label: Of the normalizer: `group`, or `group[num_groups=16]`.
        config: The complete configuration; its `output` is `folder`.
        folder: `<comparison folder>/runs/<name>`.
    """

    name: str
    label: str
    config: RunConfig
    folder: Path


def make_runs(config: ComparisonConfig) -> list[PlannedRun]:
    """Returns every combination of the grid as a run, in the order in which to start them.

    Seeds come first, so that a comparison stopped half-way holds complete grids of fewer seeds.
    Within a seed the longest runs (fewest clips per batch, then most frames) start first, so that
    the last ones to finish are short.

    Mode paper takes one step a batch, and the learning rate follows the batch by RunConfig's own
    linear rule. Mode isolated accumulates `clips_per_step / clips_per_batch` batches, so the
    optimizer's batch, and with it the learning rate, is the same for all.

    Raises:
        ConfigError: `base` holds a key that the grid sets, or is no valid run configuration, or two
            normalizers of the grid are the same one.
    """
    _check_base(config)
    grid = config.grid
    runs = [
        _make_run(config, normalizer, shape, clips, seed)
        for seed in grid.seeds
        for clips in sorted(grid.clips_per_batch)
        for shape in sorted(
            grid.clip_shapes or (None,), key=lambda shape: -shape[0] if shape else 0
        )
        for normalizer in grid.normalizers
    ]
    labels: dict[NormalizerConfig, str] = {}
    for run in runs:
        first = labels.setdefault(run.config.normalizer, run.label)
        if first != run.label:
            raise ConfigError(
                f"grid.normalizers holds {first} and {run.label}, which are the same with the"
                " settings of base.normalizer; remove one of them"
            )
    return runs


def list_varied_keys(config: ComparisonConfig) -> frozenset[str]:
    """Returns the only keys of a run configuration in which two runs of a comparison may differ."""
    settings = {
        f"normalizer.{key}"
        for normalizer in config.grid.normalizers
        for key in normalizer.list_settings()
    }
    weights = _KEYS_OF_INITIAL_WEIGHTS if config.grid.initial_weights else ()
    return frozenset((*_KEYS_OF_THE_GRID, *_KEYS_OF_CLIP_SHAPES, *weights, *settings))


def label_normalizer(
    config: ComparisonConfig, planned: Sequence[PlannedRun], normalizer: NormalizerConfig
) -> str:
    """Returns the label of a run that may be of another plan.

    Args:
        config: Of the comparison.
        planned: Its runs; a normalizer of theirs has their label, another one is named by the
            settings in which it differs from `base.normalizer`.
        normalizer: Of the run.
    """
    labels = {run.config.normalizer: run.label for run in planned}
    if normalizer in labels:
        return labels[normalizer]
    base = make_config(NormalizerConfig, config.base.get("normalizer", {}))
    settings = {
        key: value
        for key, value in normalizer.model_dump(mode="json", exclude={"name"}).items()
        if value != getattr(base, key)
    }
    return make_normalizer_label(normalizer.name, settings)


def _check_base(config: ComparisonConfig) -> None:
    keys = (
        *_KEYS_OF_THE_GRID,
        *(_KEYS_OF_CLIP_SHAPES if config.grid.clip_shapes else ()),
        *(_KEYS_OF_INITIAL_WEIGHTS if config.grid.initial_weights else ()),
    )
    setters = {
        "seed": "grid.seeds",
        "output": "output",
        "normalizer.name": "grid.normalizers",
        "training.clips_per_batch": "grid.clips_per_batch",
        "training.accumulation_steps": "mode and clips_per_step",
        "data.num_frames": "grid.clip_shapes",
        "data.stride": "grid.clip_shapes",
        "training.initial_weights": "grid.initial_weights",
    }
    for key in keys:
        section: Any = config.base
        *parents, last = key.split(".")
        for parent in parents:
            section = section.get(parent) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping) and last in section:
            raise ConfigError(
                f"base.{key} is {section[last]!r}, but a comparison sets it by {setters[key]};"
                f" remove it from base"
            )


def _make_run(
    config: ComparisonConfig,
    normalizer: GridNormalizer,
    clip_shape: tuple[int, int] | None,
    clips_per_batch: int,
    seed: int,
) -> PlannedRun:
    values = copy.deepcopy(config.base)
    _section(values, "normalizer").update(name=normalizer.name, **normalizer.list_settings())
    training = _section(values, "training")
    training["clips_per_batch"] = clips_per_batch
    training["accumulation_steps"] = (
        1 if config.clips_per_step is None else config.clips_per_step // clips_per_batch
    )
    if config.grid.initial_weights:
        training["initial_weights"] = str(config.grid.initial_weights[normalizer.name])
    if clip_shape is not None:
        data = _section(values, "data")
        data["num_frames"], data["stride"] = clip_shape
    values["seed"] = seed
    # The name needs the clip shape, which may be a default, and the folder needs the name.
    values["output"] = "unnamed"
    run_config = make_config(RunConfig, values, source="base of the comparison")
    data_config = run_config.data
    name = (
        f"{_make_file_name(normalizer.label)}_{data_config.num_frames}f{data_config.stride}"
        f"_{clips_per_batch}clips_seed{seed}"
    )
    folder = config.output / "runs" / name
    run_config = run_config.model_copy(update={"output": folder})
    return PlannedRun(name, normalizer.label, run_config, folder)


def _make_file_name(label: str) -> str:
    """Returns "group-num_groups=16" for "group[num_groups=16]": no shell or disk minds it."""
    return label.translate(str.maketrans({"[": "-", ",": "-", "]": None}))


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.setdefault(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"base.{name} is {section!r}; it must be a mapping of settings")
    return cast(dict[str, Any], section)
