"""`train`: one run, from its configuration to its final evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from gnvideo.atomic_file import write_text_atomic
from gnvideo.build import (
    RunData,
    build_activation_memory,
    build_device_name,
    build_initialized_model,
    build_optimizer,
    build_prepare,
    build_run_data,
    build_schedule,
    check_normalizer,
    describe_model,
    explain_implementation,
    load_initial_weights,
)
from gnvideo.build.loaders import build_train_loader
from gnvideo.commands.environment import describe_environment
from gnvideo.commands.evaluation import Evaluator, format_metrics
from gnvideo.comparison.run_folder import check_same_config, read_evaluation, read_status
from gnvideo.config import RunConfig, dump_config
from gnvideo.data.coverage import format_coverage, read_coverage
from gnvideo.evaluation import get_protocol
from gnvideo.layers import NORMALIZERS, compute_precise_statistics, describe_normalizers
from gnvideo.models import VideoClassifier
from gnvideo.training import distributed
from gnvideo.training.checkpoint import CheckpointFolder, find_last_checkpoint, load_weights
from gnvideo.training.loop import train
from gnvideo.training.loop_settings import LoopSettings
from gnvideo.training.run_log import NoopRunLog, RunLog
from gnvideo.training.state import TrainingState


def run_train(config: RunConfig) -> None:
    """Trains the run, from its last checkpoint if its folder holds one, and evaluates it.

    Under torchrun every process calls this; the first one writes the run folder.
    """
    check_normalizer(config.normalizer.name)
    for name in (config.evaluation.protocol, config.evaluation.monitor_protocol):
        get_protocol(name)
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    check_same_config(config.output, config)
    with distributed.process_group(build_device_name(config.training.device)) as device:
        if read_status(config.output, config) == "finished":
            _announce(f"{config.output} is finished: {_describe_result(config)}")
            return
        _run(config, device)


def _run(config: RunConfig, device: torch.device) -> None:
    checkpoint = find_last_checkpoint(config.output)
    data = build_run_data(config.data, None if checkpoint is None else load_weights(checkpoint))
    model = build_initialized_model(config, len(data.classes))
    implementation = explain_implementation(config.normalizer, device)
    memory = build_activation_memory(config, model)
    initial = load_initial_weights(config, model, data.classes) if checkpoint is None else []
    model.to(device)
    schedule, settings = build_schedule(config, len(data.train))
    clips_per_step = settings.compute_clips_per_step(distributed.get_world_size())
    if distributed.is_main_process():
        _start_folder(config)
    distributed.wait_for_all()
    if data.class_note:
        _announce(data.class_note)
    _announce(_describe_run(config, data, model, settings, device))
    if implementation is not None:
        _announce(f"kernels   {implementation[0]}: {implementation[1]}")
    for line in initial:
        _announce(f"weights   {line}")
    monitor = Evaluator(config, data.val, data.classes, config.evaluation.monitor_protocol)

    def evaluate_curve(state: TrainingState) -> Mapping[str, Any]:
        result = monitor.evaluate(model, state.device)
        metrics = {} if result.metrics is None else asdict(result.metrics)
        return {"protocol": result.protocol.name, **metrics}

    state = TrainingState(model, build_optimizer(config, model), device)
    run_log = RunLog(config.output) if distributed.is_main_process() else NoopRunLog()
    with run_log:
        train(
            state,
            make_batches=lambda start: build_train_loader(
                config,
                data.train,
                start_position=start,
                stop_position=settings.total_steps * clips_per_step,
            ),
            prepare=build_prepare(config.data),
            record_forward=memory.forward_pass,
            evaluate=evaluate_curve,
            schedule=schedule,
            settings=settings,
            run_log=run_log,
            checkpoints=CheckpointFolder(config.output, describe_model(config, data.classes)),
            start_notes=_note_implementation(implementation),
            show_progress=True,
        )
    _evaluate_finally(config, data, model, device, state.step)
    _announce(f"{config.output}: {_describe_result(config)}")


def _note_implementation(implementation: tuple[str, str] | None) -> Mapping[str, str]:
    """Returns what the log's start event says of it."""
    if implementation is None:
        return {}
    chosen, reason = implementation
    return {"implementation": chosen, "implementation_reason": reason}


def _start_folder(config: RunConfig) -> None:
    write_text_atomic(config.output / "config.yaml", dump_config(config))
    environment = json.dumps(describe_environment(), indent=2)
    write_text_atomic(config.output / "environment.json", environment + "\n")


def _evaluate_finally(
    config: RunConfig, data: RunData, model: VideoClassifier, device: torch.device, step: int
) -> None:
    """Writes the final evaluation; with batch statistics also that with recomputed ones."""
    evaluator = Evaluator(config, data.val, data.classes, config.evaluation.protocol)
    has_statistics = NORMALIZERS[config.normalizer.name].has_running_statistics
    folder = config.output / "evaluation"
    result = evaluator.evaluate(model, device)
    if distributed.is_main_process():
        evaluator.save(result, step, "running" if has_statistics else "none", folder)
    if not has_statistics:
        return
    # The checkpoint keeps the running statistics: this comes after the last save.
    # In the precision of the training: the statistics are of what the model really computes.
    autocast = torch.autocast(
        device.type, torch.bfloat16, enabled=config.training.precision == "bfloat16"
    )
    with autocast:
        compute_precise_statistics(
            model, _make_statistics_batches(config, data, device), config.evaluation.precise_batches
        )
    result = evaluator.evaluate(model, device)
    if distributed.is_main_process():
        evaluator.save(result, step, "precise", folder)


def _make_statistics_batches(
    config: RunConfig, data: RunData, device: torch.device
) -> Iterator[torch.Tensor]:
    """Yields the first batches of the training stream, as the model's input."""
    prepare = build_prepare(config.data)
    clips_per_step = config.training.clips_per_batch * distributed.get_world_size()
    loader = build_train_loader(
        config,
        data.train,
        start_position=0,
        stop_position=config.evaluation.precise_batches * clips_per_step,
    )
    for batch in loader:
        yield prepare(batch.clips_NCTHW.to(device))


def _describe_run(
    config: RunConfig,
    data: RunData,
    model: VideoClassifier,
    settings: LoopSettings,
    device: torch.device,
) -> str:
    """Returns the lines that a run opens with: each choice that decides its result."""
    training = config.training
    num_devices = distributed.get_world_size()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    clips_per_step = settings.compute_clips_per_step(num_devices)
    splits = read_coverage(config.data.root)["splits"]
    named = dict.fromkeys((config.data.train_split, config.data.val_split))
    return "\n".join(
        (
            f"run       {config.output}  seed {config.seed}",
            f"model     {config.model.name}, {parameters / 1e6:.2f} M parameters,"
            f" {len(data.classes)} classes",
            f"norm      {describe_normalizers(model)}",
            f"data      {'; '.join(format_coverage(split, splits[split]) for split in named)};"
            f" decoder {config.data.decoder}",
            f"batch     {training.clips_per_batch} clips per device{describe_statistics(config)},"
            f" {num_devices} device(s), accumulation {training.accumulation_steps}:"
            f" {clips_per_step} clips per optimizer step",
            f"steps     {settings.total_steps} on {device}, {training.precision}",
            f"memory    {training.activation_memory}",
        )
    )


def describe_statistics(config: RunConfig) -> str:
    """Returns how many clips batch statistics see; nothing where there are no such statistics."""
    clips, name = config.training.clips_per_batch, config.normalizer.name
    spec = NORMALIZERS[name]
    if not spec.uses_batch_statistics:
        return ""
    if name == "sync_batch":
        clips *= distributed.get_world_size()
    elif name == "sub_batch":
        clips = min(clips, config.normalizer.sub_batch_clips)
    # Those that have none to recompute train by moving averages.
    earlier = "" if spec.has_running_statistics else " and earlier batches"
    return f" (batch statistics see {clips}{earlier})"


def _describe_result(config: RunConfig) -> str:
    parts: list[str] = []
    for precise in (False, True):
        evaluation = read_evaluation(config.output, config, precise)
        if evaluation is not None:
            suffix = " with precise statistics" if precise else ""
            parts.append(f"{format_metrics(evaluation)}{suffix}")
    return "; ".join(parts)


def _announce(text: str) -> None:
    if distributed.is_main_process():
        print(text, flush=True)
