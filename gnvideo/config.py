"""The configuration of a run and of a comparison: typed, frozen and strict; YAML in and out.

Precedence, last wins: the defaults below, the YAML file, the command line's `key.sub=value` words.
An unknown key is an error that names the nearest valid one.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from gnvideo.errors import ConfigError, InputFileError

Count = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(gt=0)]


class StrictConfig(BaseModel):
    """Base of every section: frozen, and an unknown key or a wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelConfig(StrictConfig):
    """The network. Settings that the named network does not have must keep their defaults."""

    name: str = "i3d_r50"
    width: int = Field(default=64, ge=1, description="channels of the first stage")
    dropout_rate: float = Field(default=0.5, ge=0, lt=1)
    stem_pool: bool = Field(default=False, description="resnet3d: spatial max pool after the stem")
    temporal_strides: tuple[Count, Count, Count, Count] = Field(
        default=(1, 2, 2, 2), description="resnet3d: of stages 1 to 4"
    )
    zero_final_gamma: bool = Field(
        default=True,
        description="start the last normalizer of every residual block at 0, whatever its kind",
    )


class NormalizerConfig(StrictConfig):
    """The normalizer and its settings; each kind reads those that it has."""

    name: str = "group"
    num_groups: int = Field(default=32, ge=1)
    eps: float = Field(default=1e-5, gt=0)
    momentum: float = Field(
        default=0.1, gt=0, le=1, description="of running statistics, as in torch"
    )


class DataConfig(StrictConfig):
    """The prepared data and how clips are taken from it."""

    root: Path = Field(description="folder written by data_tools/preprocess_kinetics.py")
    train_split: str = "train"
    val_split: str = "val"
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    num_frames: int = Field(default=32, ge=1, description="frames of a clip")
    stride: int = Field(default=2, ge=1, description="video frames from one clip frame to the next")
    short_side_range_pixels: tuple[int, int] = Field(
        default=(256, 320), description="drawn for each clip in training"
    )
    crop_pixels: int = Field(default=224, ge=1)
    test_short_side_pixels: int = Field(default=256, ge=1)
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    mean: tuple[float, float, float] = Field(
        default=(0.45, 0.45, 0.45), description="of pixels in 0..1"
    )
    std: tuple[Scale, Scale, Scale] = (0.225, 0.225, 0.225)
    num_workers: int = Field(
        default=4, ge=0, description="loader processes; 0 decodes in the training process"
    )

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        low, high = self.short_side_range_pixels
        if not self.crop_pixels <= low <= high:
            raise ValueError(
                f"short_side_range_pixels is [{low}, {high}]; it must ascend and start at"
                f" crop_pixels ({self.crop_pixels}) or more"
            )
        if self.test_short_side_pixels < self.crop_pixels:
            raise ValueError(
                f"test_short_side_pixels is {self.test_short_side_pixels}; it must be at least"
                f" crop_pixels ({self.crop_pixels})"
            )
        return self


class TrainingConfig(StrictConfig):
    """The optimization. Clips per batch are per device: what batch statistics see."""

    clips_per_batch: int = Field(default=8, ge=1)
    accumulation_steps: int = Field(
        default=1, ge=1, description="batches whose gradients are summed for one step"
    )
    epochs: float = Field(default=100, gt=0)
    learning_rate: float = Field(
        default=0.01, gt=0, description="for reference_clips_per_step clips"
    )
    reference_clips_per_step: int | None = Field(
        default=64,
        ge=1,
        description="the rate is scaled linearly from here to the step's clips; null: never scaled",
    )
    schedule: Literal["step", "cosine", "constant"] = "step"
    step_epochs: tuple[float, ...] = Field(
        default=(37.5, 75.0), description="schedule step: where the rate drops"
    )
    step_factor: float = Field(default=0.1, gt=0, lt=1)
    warmup_epochs: float = Field(default=0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)
    normalizer_weight_decay: float = Field(
        default=0.0, ge=0, description="on gamma and beta, whatever the normalizer"
    )
    max_gradient_norm: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    num_threads: int | None = Field(
        default=None, ge=1, description="torch's threads on the CPU; null: torch's choice"
    )
    log_every_steps: int = Field(default=20, ge=1)
    evaluate_every_epochs: float = Field(
        default=1, gt=0, description="the validation curve: protocol monitor_protocol"
    )
    save_every_epochs: float = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if list(self.step_epochs) != sorted(set(self.step_epochs)):
            raise ValueError(f"step_epochs is {list(self.step_epochs)}; the epochs must ascend")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}; it must be below epochs ({self.epochs})"
            )
        return self


class EvaluationConfig(StrictConfig):
    """Which protocols measure the accuracy."""

    protocol: str = Field(default="gn-10", description="of the final evaluation")
    monitor_protocol: str = Field(default="center-1x1", description="of the curve while training")
    precise_batches: int = Field(
        default=200, ge=1, description="batches that recompute batch statistics"
    )


class RunConfig(StrictConfig):
    """One training run with its evaluation."""

    seed: int = Field(default=0, ge=0)
    output: Path = Field(description="the run folder")
    model: ModelConfig = ModelConfig()
    normalizer: NormalizerConfig = NormalizerConfig()
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class GridConfig(StrictConfig):
    """What a comparison varies; every combination is one run."""

    normalizers: tuple[str, ...] = Field(default=("batch", "group"), min_length=1)
    clips_per_batch: tuple[Count, ...] = Field(default=(8, 4), min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2), min_length=1)
    clip_shapes: tuple[tuple[Count, Count], ...] = Field(
        default=(), description="pairs of frames and stride; empty: those of base.data"
    )

    @model_validator(mode="after")
    def _values_are_distinct(self) -> Self:
        for name in ("normalizers", "clips_per_batch", "seeds", "clip_shapes"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} is {list(values)}; a value stands there twice")
        return self


class ComparisonConfig(StrictConfig):
    """A grid of runs that differ in nothing but what the grid says."""

    output: Path = Field(description="the comparison folder")
    mode: Literal["paper", "isolated"] = Field(
        default="paper",
        description="paper: the optimizer's batch shrinks with the clips per batch,"
        " its rate linearly; isolated: accumulation keeps the optimizer's batch,"
        " only the statistics' batch shrinks",
    )
    clips_per_step: int | None = Field(
        default=None, ge=1, description="mode isolated: the optimizer's batch"
    )
    parallel_runs: int | None = Field(
        default=None,
        ge=1,
        description="runs side by side; null: one a GPU, or one a core without GPUs",
    )
    grid: GridConfig = GridConfig()
    base: dict[str, Any] = Field(
        description="a run configuration without output, seed and what the grid sets"
    )

    @model_validator(mode="after")
    def _mode_fits(self) -> Self:
        if self.mode == "paper":
            if self.clips_per_step is not None:
                raise ValueError(
                    "clips_per_step belongs to mode isolated; remove it or set mode=isolated"
                )
            return self
        if self.clips_per_step is None:
            raise ValueError(
                "clips_per_step is missing; mode isolated needs the optimizer's batch, in clips"
            )
        for clips in self.grid.clips_per_batch:
            if self.clips_per_step % clips:
                raise ValueError(
                    f"grid.clips_per_batch holds {clips}, which does not divide clips_per_step"
                    f" ({self.clips_per_step})"
                )
        return self


AnyConfig = TypeVar("AnyConfig", bound=StrictConfig)


def load_config(
    config_class: type[AnyConfig], path: Path, overrides: Sequence[str] = ()
) -> AnyConfig:
    """Returns the configuration in the YAML file at `path`, with `key.sub=value` overrides applied.

    Raises:
        InputFileError: the file is missing or unreadable.
        ConfigError: not YAML, or a wrong key, type or value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputFileError(
            f"no configuration file {path}; pass a YAML file, such as one of configs/"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"cannot read the configuration {path}: {error}") from None
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping of settings; write 'key: value' lines")
    return make_config(config_class, cast(dict[str, Any], values), overrides, source=str(path))


def make_config(
    config_class: type[AnyConfig],
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    source: str = "the configuration",
) -> AnyConfig:
    """Returns the configuration that plain `values` and `overrides` describe.

    Raises:
        ConfigError: a wrong key, type or value; the message names the key as the user wrote it.
    """
    merged = copy.deepcopy(dict(values))
    for override in overrides:
        _apply_override(merged, override)
    try:
        # As JSON, strict validation takes a list for a tuple and a string for a path, but no
        # string for a number.
        return config_class.model_validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        described = "; ".join(_describe(config_class, detail) for detail in error.errors())
        raise ConfigError(f"{source}: {described}") from None


def dump_config(config: StrictConfig) -> str:
    """Returns the complete configuration as YAML; `load_config` of it gives an equal one."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


class _ConfigLoader(yaml.SafeLoader):
    """YAML with 1e-3 as a number (YAML 1.2); a repeated key, or one not a text, is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [cast(str, key.value) for key, _ in node.value]
        mapping = super().construct_mapping(node, deep)
        problems = [f"the key {key!r} stands there twice" for key in keys if keys.count(key) > 1]
        problems += [f"the key {key} is no text" for key in mapping if not isinstance(key, str)]
        if problems:
            raise yaml.constructor.ConstructorError(None, None, problems[0], node.start_mark)
        return mapping


class _ConfigDumper(yaml.SafeDumper):
    """Quotes the texts that `_ConfigLoader` would take for numbers."""


for _class in (_ConfigLoader, _ConfigDumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )


def _parse_yaml(text: str, source: str) -> object:
    try:
        # A SafeLoader: it builds plain values only.
        return yaml.load(text, Loader=_ConfigLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not key.sub=value, such as training.epochs=10")
    section = values
    *parents, last = key.split(".")
    for parent in parents:
        child = section.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value and has no settings")
        section = cast(dict[str, Any], child)
    section[last] = _parse_yaml(text, f"override {override!r}")


def _describe(config_class: type[StrictConfig], detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        *parents, last = (str(part) for part in detail["loc"])
        names = list(_section_fields(config_class, parents))
        near = difflib.get_close_matches(last, names, n=1, cutoff=0.0)
        return f"unknown key {key!r}; did you mean {'.'.join([*parents, *near])!r}?"
    if detail["type"] == "missing":
        return f"the key {key!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} is {detail['input']!r}: {message[0].lower()}{message[1:]}"


def _section_fields(config_class: type[StrictConfig], parents: Sequence[str]) -> Sequence[str]:
    section: type[BaseModel] = config_class
    for parent in parents:
        annotation = section.model_fields[parent].annotation
        candidates = [annotation, *get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
