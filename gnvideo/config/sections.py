"""The sections of a run's configuration and of a comparison's: typed, frozen and strict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

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
    non_local: bool = Field(default=False, description="i3d: five non-local blocks")
    zero_final_gamma: bool = Field(
        default=True,
        description="start the last normalizer of every residual block at 0, whatever its kind",
    )


class NormalizerConfig(StrictConfig):
    """The normalizer and its settings; each kind reads those that it has."""

    name: str = "group"
    num_groups: int = Field(default=32, ge=1)
    channels_per_group: int | None = Field(
        default=None, ge=1, description="instead of num_groups, which then counts no more"
    )
    per_frame: bool = Field(
        default=False, description="group, layer, instance: over (H, W) of a frame, not (T, H, W)"
    )
    eps: float = Field(default=1e-5, gt=0)
    implementation: Literal["auto", "reference", "native", "triton"] = Field(
        default="auto",
        description="kernels of group, group_ws, layer, instance, batch, frozen_batch",
    )
    momentum: float = Field(
        default=0.1, gt=0, le=1, description="of running statistics, as in torch"
    )
    sub_batch_clips: int = Field(default=2, ge=1, description="sub_batch: clips of a sub-batch")
    history_batches: int = Field(
        default=16, ge=1, description="moving_average_batch: batches averaged over"
    )
    renorm_max_scale: float = Field(default=3.0, ge=1, description="batch_renorm: last bound of r")
    renorm_max_shift: float = Field(default=5.0, ge=0, description="batch_renorm: last bound of d")
    renorm_hold_steps: int = Field(
        default=5_000, ge=0, description="batch_renorm: steps as plain BatchNorm"
    )
    renorm_scale_steps: int = Field(
        default=40_000, ge=0, description="batch_renorm: steps until the last bound of r"
    )
    renorm_shift_steps: int = Field(
        default=25_000, ge=0, description="batch_renorm: steps until the last bound of d"
    )


class DataConfig(StrictConfig):
    """The prepared data and how clips are taken from it."""

    root: Path = Field(description="folder written by data_tools/preprocess_kinetics.py")
    train_split: str = "train"
    val_split: str = "val"
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    pixel_format: Literal["rgb", "yuv420"] = Field(
        default="rgb",
        description="yuv420: as the files store it, made rgb on the device; 8-bit 4:2:0 only",
    )
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
    prefetch_batches: int | None = Field(
        default=None, ge=1, description="batches made ahead by them; null: two for each"
    )
    start_method: Literal["auto", "fork", "forkserver", "spawn"] = Field(
        default="auto", description="how they start; auto: forkserver, or else spawn"
    )
    decode_timeout_seconds: float = Field(
        default=120, gt=0, description="one that is longer at a video ends the run, naming it"
    )
    clips_per_open: int = Field(
        default=1, ge=1, description="training clips of a video each time that it is opened"
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
        if self.pixel_format == "yuv420" and (self.decoder != "pyav" or self.crop_pixels % 2):
            raise ValueError(
                f"pixel_format is yuv420, decoder {self.decoder} and crop_pixels"
                f" {self.crop_pixels}; yuv420 needs decoder pyav and an even crop"
            )
        return self


class TrainingConfig(StrictConfig):
    """The optimization. Clips per batch are per device: what batch statistics see."""

    initial_weights: Path | None = Field(
        default=None,
        description="start from these, of any project or a run; null: from the seed alone",
    )
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
    activation_memory: Literal[
        "keep", "recompute-norm", "recompute-pointwise", "recompute-block"
    ] = Field(
        default="keep", description="what is kept for the backward pass; the gradients are the same"
    )
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


class GridNormalizer(NormalizerConfig):
    """A normalizer of a grid: a name, or a mapping of the name and settings other than base's.

    In YAML `batch` or `{name: group, num_groups: 16}`. Settings that are not given are those of
    `base.normalizer`.
    """

    name: str = Field()

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict):
            raise ValueError(
                f"{value!r} is no normalizer; write its name, or a mapping such as"
                " {name: group, num_groups: 16}"
            )
        return cast(object, value)

    @model_serializer
    def _write_what_is_given(self) -> str | dict[str, Any]:
        settings = self.list_settings()
        return {"name": self.name, **settings} if settings else self.name

    def list_settings(self) -> dict[str, Any]:
        """Returns the settings that are given, in the order of `NormalizerConfig`."""
        return {
            key: getattr(self, key)
            for key in NormalizerConfig.model_fields
            if key in self.model_fields_set and key != "name"
        }

    @property
    def label(self) -> str:
        """See `make_normalizer_label`."""
        return make_normalizer_label(self.name, self.list_settings())


def make_normalizer_label(name: str, settings: Mapping[str, Any]) -> str:
    """Returns what tells the runs of a normalizer apart from others, such as "batch".

    With settings: "group[num_groups=16]", or "group[num_groups=16,eps=0.001]". Equal labels mean
    equal names and settings.
    """
    if not settings:
        return name
    return f"{name}[{','.join(f'{key}={json.dumps(value)}' for key, value in settings.items())}]"


class GridConfig(StrictConfig):
    """What a comparison varies; every combination is one run."""

    normalizers: tuple[GridNormalizer, ...] = Field(
        default=(GridNormalizer(name="batch"), GridNormalizer(name="group")),
        min_length=1,
        description="names, or mappings of a name and settings other than base.normalizer's",
    )
    clips_per_batch: tuple[Count, ...] = Field(default=(8, 4), min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2), min_length=1)
    clip_shapes: tuple[tuple[Count, Count], ...] = Field(
        default=(), description="pairs of frames and stride; empty: those of base.data"
    )
    initial_weights: dict[str, Path] = Field(
        default={},
        description="by name of normalizer: the file that its runs start from;"
        " empty: base.training.initial_weights for all",
    )

    @model_validator(mode="after")
    def _values_are_distinct(self) -> Self:
        distinct = {
            "normalizers": [normalizer.label for normalizer in self.normalizers],
            "clips_per_batch": list(self.clips_per_batch),
            "seeds": list(self.seeds),
            "clip_shapes": list(self.clip_shapes),
        }
        for name, values in distinct.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{name} is {values}; a value stands there twice")
        return self

    @model_validator(mode="after")
    def _every_normalizer_has_weights_or_none(self) -> Self:
        names = {normalizer.name for normalizer in self.normalizers}
        if self.initial_weights and self.initial_weights.keys() != names:
            raise ValueError(
                f"initial_weights names {', '.join(self.initial_weights)}, and the normalizers are"
                f" {', '.join(sorted(names))}; name a file for each of them and no other"
            )
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
