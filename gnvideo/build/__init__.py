"""The only place where configuration becomes objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gnvideo.config import DataConfig, ModelConfig, NormalizerConfig, RunConfig, make_config
from gnvideo.data.class_list import ClassMatch, match_model_classes, read_classes
from gnvideo.data.planes import convert_packed_clips
from gnvideo.data.transforms import normalize_clips
from gnvideo.data.video_index import VideoIndex, load_video_index
from gnvideo.errors import ConfigError, ManifestError, ModelError
from gnvideo.layers import NORMALIZERS, NormalizerFactory, normalizer_factory
from gnvideo.models import VideoClassifier, initialize, list_settings, make_model
from gnvideo.models.activation_memory import ActivationMemory
from gnvideo.training.checkpoint import (
    LoadedWeights,
    ModelDescription,
    find_weights_file,
    load_into_model,
)
from gnvideo.training.distributed import get_world_size
from gnvideo.training.loop_settings import LoopSettings
from gnvideo.training.optimizer import make_optimizer
from gnvideo.training.schedules import (
    Schedule,
    count_steps,
    count_total_steps,
    make_schedule,
    scale_learning_rate,
)
from gnvideo.training.sgd import Sgd
from gnvideo.weights import read_weights_file, transfer_weights

# What of the data section belongs to the weights: how a clip is made, not where videos lie.
_INPUT_RECIPE_KEYS = (
    "num_frames",
    "stride",
    "short_side_range_pixels",
    "crop_pixels",
    "test_short_side_pixels",
    "flip_probability",
    "mean",
    "std",
)


@dataclass(frozen=True)
class RunData:
    """The classes and the readable videos of a run's two splits.

    Attributes:
        classes: In the order of the model's outputs.
        train: Of the training split.
        val: Of the validation split.
        class_note: How the folder's own class list differs from `classes`; None if it does not.
    """

    classes: tuple[str, ...]
    train: VideoIndex
    val: VideoIndex
    class_note: str | None


def build_device_name(name: str) -> str:
    """Returns "cpu", "cuda" or "cuda:<n>" for a configured device; auto takes a GPU if it can.

    Raises:
        ConfigError: no device has that name, or it is a GPU that is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ConfigError(f"the device is {name!r}; allowed are auto, cpu, cuda and cuda:<n>")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if num_gpus else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= num_gpus:
        raise ConfigError(
            f"the device is {name} and torch sees {num_gpus} GPUs here; choose another, such as"
            " cpu, or run the doctor command"
        )
    return name


def build_class_match(config: DataConfig, weights: LoadedWeights) -> ClassMatch:
    """Returns the classes of the weights, in their order, as the prepared folder spells them.

    Raises:
        ManifestError: the folder is not prepared.
        ClassListError: the folder has a class that the weights do not know.
    """
    return match_model_classes(
        weights.description.classes,
        read_classes(config.root),
        str(weights.path),
        str(config.root),
    )


def build_index(config: DataConfig, split: str, classes: tuple[str, ...]) -> VideoIndex:
    """Returns the readable videos of `split`.

    Args:
        config: Of the data.
        split: "train", "val" or "test".
        classes: In the order of the model's outputs, as the prepared folder spells them.

    Raises:
        ManifestError: the folder is not prepared, or the split holds no readable video.
    """
    index = load_video_index(config.root, split, classes)
    if len(index) == 0:
        raise ManifestError(
            f"{config.root} holds no readable video of the split {split!r}; prepare it with"
            " data_tools/preprocess_kinetics.py, or name another split"
        )
    return index


def build_run_data(config: DataConfig, resumed: LoadedWeights | None = None) -> RunData:
    """Returns the data of a training run.

    Args:
        config: Of the data.
        resumed: The weights that the run goes on from, whose classes keep their order; or None.

    Raises:
        ManifestError: the folder is not prepared, a split holds no readable video, or the training
            split one without a label.
        ClassListError: the folder has a class that the resumed weights do not know.
    """
    if resumed is None:
        classes = names = read_classes(config.root)
        note = None
    else:
        classes = resumed.description.classes
        match = build_class_match(config, resumed)
        names, note = match.names, match.note
    train = build_index(config, config.train_split, names)
    num_unlabelled = train.count_unlabelled()
    if num_unlabelled:
        raise ManifestError(
            f"the split {config.train_split!r} of {config.root} holds {num_unlabelled} videos"
            " without a label; train on another split with data.train_split"
        )
    return RunData(classes, train, build_index(config, config.val_split, names), note)


def check_normalizer(name: str, settings: Collection[str] = ()) -> None:
    """Raises ConfigError if no normalizer has that name, or if it does not take those settings."""
    if name not in NORMALIZERS:
        raise ConfigError(
            f"the normalizer is {name!r}; allowed are {', '.join(NORMALIZERS)}; choose one of them"
        )
    taken = NORMALIZERS[name].settings
    for setting in settings:
        if setting not in taken:
            raise ConfigError(
                f"the normalizer {name} does not take {setting}; it takes"
                f" {', '.join(taken) or 'no settings'}; remove {setting} or choose another"
            )


def build_model(
    model: ModelConfig, normalizer: NormalizerConfig, data: DataConfig, num_classes: int
) -> VideoClassifier:
    """Returns the network on the CPU, with torch's default weights.

    Raises:
        ModelError: the model is unknown, or lacks a setting that is not at its default.
    """
    check_normalizer(normalizer.name)
    wanted: dict[str, Any] = {
        key: value
        for key, value in model.model_dump().items()
        if key not in ("name", "zero_final_gamma")
    }
    wanted |= {"train_crop_pixels": data.crop_pixels, "num_frames": data.num_frames}
    known = list_settings(model.name)
    defaults = ModelConfig().model_dump()
    for key in wanted.keys() - known.keys():
        if wanted[key] != defaults[key]:
            raise ModelError(
                f"model.{key} is {wanted[key]!r}, a setting that {model.name} does not have;"
                " remove it, or choose another model"
            )
    return make_model(
        model.name,
        num_classes,
        _make_factory(normalizer),
        **{key: value for key, value in wanted.items() if key in known},
    )


def _make_factory(config: NormalizerConfig) -> NormalizerFactory:
    return normalizer_factory(config.name, **config.model_dump(exclude={"name"}))


def build_initialized_model(config: RunConfig, num_classes: int) -> VideoClassifier:
    """Returns the network with the weights of the run's seed, the same for every normalizer."""
    model = build_model(config.model, config.normalizer, config.data, num_classes)
    initialize(model, config.seed, config.model.zero_final_gamma)
    return model


def explain_implementation(
    config: NormalizerConfig, device: torch.device
) -> tuple[str, str] | None:
    """Returns whose kernels the normalizers run by, and why; None if there is no choice.

    Raises:
        NormalizerError: the implementation that was asked for cannot run on the device.
    """
    return _make_factory(config).explain_implementation(device)


def check_activation_memory(config: RunConfig) -> None:
    """Raises ConfigError if the normalizer does not allow the configured way of keeping less."""
    mode, name = config.training.activation_memory, config.normalizer.name
    if mode == "recompute-block" and NORMALIZERS[name].reads_past_batches:
        raise ConfigError(
            f"training.activation_memory is {mode}, and {name} normalizes by earlier batches: its"
            " forward pass cannot be run again; choose keep, recompute-norm or recompute-pointwise"
        )


def build_activation_memory(config: RunConfig, model: VideoClassifier) -> ActivationMemory:
    """Returns what decides how much of a forward pass in training is kept.

    Raises:
        ConfigError: the normalizer does not allow the configured way.
    """
    check_activation_memory(config)
    return ActivationMemory(model, config.training.activation_memory)


def load_initial_weights(
    config: RunConfig, model: VideoClassifier, classes: tuple[str, ...]
) -> list[str]:
    """Puts the weights that a run starts from into its initialized model; returns lines on it.

    No line, and no change, if the run starts from its seed alone.

    Raises:
        CheckpointError: there is no such file, it asks for code, or it is of another network.
    """
    path = config.training.initial_weights
    if path is None:
        return []
    report = transfer_weights(model, read_weights_file(find_weights_file(path)), classes)
    return report.format_lines(config.data.mean, config.data.std)


def describe_model(config: RunConfig, classes: tuple[str, ...]) -> ModelDescription:
    """Returns what a checkpoint says of its weights; `build_described_model` reads it."""
    data = config.data.model_dump(mode="json")
    return ModelDescription(
        classes=classes,
        input_recipe={key: data[key] for key in _INPUT_RECIPE_KEYS},
        model=config.model.model_dump(mode="json"),
        normalizer=config.normalizer.model_dump(mode="json"),
    )


def build_described_model(weights: LoadedWeights, data: DataConfig) -> VideoClassifier:
    """Returns the checkpoint's network with its weights.

    Raises:
        ConfigError: the checkpoint describes its network by settings that are not known here.
        CheckpointError: the weights do not fit the network described.
    """
    description, source = weights.description, str(weights.path)
    model = build_model(
        make_config(ModelConfig, description.model, source=source),
        make_config(NormalizerConfig, description.normalizer, source=source),
        data,
        len(description.classes),
    )
    load_into_model(model, weights)
    return model


def build_recipe(weights: LoadedWeights, data: dict[str, Any]) -> DataConfig:
    """Returns `data`, a data section, with the input recipe of the checkpoint.

    Raises:
        ConfigError: the recipe holds a setting that is not known here.
    """
    recipe = dict(weights.description.input_recipe)
    return make_config(DataConfig, data | recipe, source=str(weights.path))


def build_prepare(config: DataConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns the function from uint8 clips on the device to the model's float32 input."""
    normalize = partial(normalize_clips, mean=config.mean, std=config.std, dtype=torch.float32)
    if config.pixel_format == "rgb":
        return normalize
    return lambda clips: normalize(convert_packed_clips(clips))


def build_optimizer(config: RunConfig, model: torch.nn.Module) -> Sgd:
    """Returns the optimizer over the model's parameter groups."""
    training = config.training
    return make_optimizer(
        model,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
        normalizer_weight_decay=training.normalizer_weight_decay,
    )


def build_schedule(config: RunConfig, num_videos: int) -> tuple[Schedule, LoopSettings]:
    """Returns the learning rate by step and the loop's settings, for this number of processes."""
    training = config.training
    clips_per_step = training.clips_per_batch * training.accumulation_steps * get_world_size()
    total_steps = count_total_steps(training.epochs, num_videos, clips_per_step)
    to_steps = partial(count_steps, num_videos=num_videos, clips_per_step=clips_per_step)
    schedule = make_schedule(
        training.schedule,
        learning_rate=scale_learning_rate(
            training.learning_rate, clips_per_step, training.reference_clips_per_step
        ),
        total_steps=total_steps,
        warmup_steps=to_steps(training.warmup_epochs),
        drop_steps=[to_steps(epochs) for epochs in training.step_epochs],
        drop_factor=training.step_factor,
    )
    settings = LoopSettings(
        seed=config.seed,
        total_steps=total_steps,
        clips_per_batch=training.clips_per_batch,
        accumulation_steps=training.accumulation_steps,
        num_videos=num_videos,
        precision=training.precision,
        channels_last=training.channels_last,
        max_gradient_norm=training.max_gradient_norm,
        log_every_steps=training.log_every_steps,
        evaluate_every_epochs=training.evaluate_every_epochs,
        save_every_epochs=training.save_every_epochs,
    )
    return schedule, settings
