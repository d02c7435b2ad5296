"""The training loop: evaluate if due, save if due, fetch, step, log. No hooks.

The loader advances only after the save, so a resumed run meets the same clips.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import torch

from gnvideo.errors import GnvideoError, NonFiniteLossError, WorkFailedError
from gnvideo.training import distributed
from gnvideo.training.checkpoint import CheckpointFolder
from gnvideo.training.device_batches import Batch, DeviceBatches
from gnvideo.training.loop_settings import LoopSettings
from gnvideo.training.progress import TrainingProgress
from gnvideo.training.run_log import RunLog
from gnvideo.training.schedules import Schedule
from gnvideo.training.speed import SpeedMeter
from gnvideo.training.state import TrainingState, dump_state, restore_state, seed_processes
from gnvideo.training.step import Prepare, RecordForward, take_step
from gnvideo.training.stop_signal import catch_sigterm

# Share of the time from which on waiting for data is worth a hint.
_MUCH_WAITING = 0.2


def train(
    state: TrainingState,
    *,
    make_batches: Callable[[int], Iterable[Batch]],
    prepare: Prepare,
    record_forward: RecordForward = contextlib.nullcontext,
    evaluate: Callable[[TrainingState], Mapping[str, Any]],
    schedule: Schedule,
    settings: LoopSettings,
    run_log: RunLog,
    checkpoints: CheckpointFolder,
    start_notes: Mapping[str, str] = MappingProxyType({}),
    show_progress: bool,
) -> None:
    """Trains `state` to `settings.total_steps`, from the run's last checkpoint if there is one.

    SIGTERM, as from a cluster that needs the machine, ends the run after the step at hand with a
    checkpoint; running again goes on from it. With many processes they agree on this, and on
    whether the loss is finite, when a line of the log is due.

    Args:
        state: At step 0, its model on its device.
        make_batches: Given the clips already consumed by all processes, returns this process's
            next batches, each of `clips_per_batch` clips, enough for the steps left.
        prepare: Makes the model's float input from uint8 clips that are on the device.
        record_forward: See `RecordForward`.
        evaluate: Returns the fields of the log's "evaluate" event, with `protocol`, the same on
            every process. Its draws from torch's generators do not reach the training.
        schedule: Learning rate by step.
        settings: See `LoopSettings`.
        run_log: A `NoopRunLog` on processes other than the main one.
        checkpoints: Of the run; the main process writes.
        start_notes: What else the log's "start" event says of this machine's part in the run.
        show_progress: On standard error; the main process only.

    Raises:
        NonFiniteLossError: the loss or the weights became NaN or infinite.
        WorkFailedError: stopped by SIGTERM; the message says how to go on.
        CheckpointError: the last checkpoint is damaged, or belongs to another model or to another
            number of processes.
        OutputError: the run folder cannot be written to.
        SaveFailedError: saving or logging failed half-way, as on a full disk.
    """
    if settings.channels_last:
        state.model.to(memory_format=torch.channels_last_3d)
    state.model.train()
    seed_processes(settings.seed)
    if distributed.is_main_process():
        checkpoints.remove_partial()
    checkpoint = checkpoints.find_last()
    if checkpoint is not None:
        restore_state(state, checkpoint)
    run_log.truncate_after(state.step)
    progress = TrainingProgress(
        total_steps=settings.total_steps,
        start_step=state.step,
        enabled=show_progress and distributed.is_main_process(),
    )
    loop = _Loop(state, evaluate, settings, run_log, checkpoints, progress)
    try:
        with catch_sigterm() as stop_signal, progress:
            loop.run(make_batches, prepare, record_forward, schedule, stop_signal, start_notes)
    except BaseException as error:
        reason = str(error) if isinstance(error, GnvideoError) else repr(error)
        # The disk may be what failed.
        with contextlib.suppress(GnvideoError):
            run_log.write("failed", reason=reason)
        raise


class _Loop:
    """What the parts of the loop share. `train` is its only user."""

    def __init__(
        self,
        state: TrainingState,
        evaluate: Callable[[TrainingState], Mapping[str, Any]],
        settings: LoopSettings,
        run_log: RunLog,
        checkpoints: CheckpointFolder,
        progress: TrainingProgress,
    ) -> None:
        self._state = state
        self._evaluate = evaluate
        self._settings = settings
        self._run_log = run_log
        self._checkpoints = checkpoints
        self._progress = progress
        self._world_size = distributed.get_world_size()
        self._clips_per_step = settings.compute_clips_per_step(self._world_size)
        self._speed = SpeedMeter(state.device)
        self._learning_rate = math.nan
        self._num_logged = 0
        self._has_hinted = False

    def run(
        self,
        make_batches: Callable[[int], Iterable[Batch]],
        prepare: Prepare,
        record_forward: RecordForward,
        schedule: Schedule,
        stop_signal: threading.Event,
        start_notes: Mapping[str, str],
    ) -> None:
        state, settings = self._state, self._settings
        self._run_log.write(
            "start",
            step=state.step,
            processes=self._world_size,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            **start_notes,
        )
        parallel_model = distributed.wrap_model(state.model)
        batches = DeviceBatches(make_batches(state.clips_seen), state.device)
        # The checkpoint that the run resumes from was saved after this step's evaluation.
        resumed_step = state.step
        stop = False
        if state.step > 0 and self._is_due(settings.save_every_epochs):
            self._run_log.write("save", step=state.step)
        self._speed.restart()
        while True:
            # Evaluate if due.
            if state.step > resumed_step and self._is_due(settings.evaluate_every_epochs):
                self._run_evaluation()
            # Save if due, or before leaving.
            save_is_due = self._is_due(settings.save_every_epochs)
            if state.step > resumed_step and (save_is_due or stop):
                self._save(log=save_is_due)
            if state.step >= settings.total_steps:
                break
            if stop:
                raise WorkFailedError(
                    f"stopped by SIGTERM at step {state.step} of {settings.total_steps}; run the"
                    " same command to go on from there"
                )
            # Fetch and step: the loader advances only here.
            self._learning_rate = schedule(state.step)
            take_step(
                state,
                parallel_model,
                lambda: self._fetch(batches),
                lambda: self._prefetch(batches),
                prepare,
                learning_rate=self._learning_rate,
                accumulation_steps=settings.accumulation_steps,
                precision=settings.precision,
                channels_last=settings.channels_last,
                max_gradient_norm=settings.max_gradient_norm,
                record_forward=record_forward,
            )
            state.step += 1
            state.clips_seen += self._clips_per_step
            self._speed.count(self._clips_per_step)
            self._progress.advance(state.step)
            # Log.
            log_is_due = state.step % settings.log_every_steps == 0
            if self._world_size > 1:
                # One wish to stop stops all; they ask each other only where they wait anyway.
                if log_is_due:
                    stop = any(distributed.gather_objects(stop_signal.is_set()))
            else:
                stop = stop_signal.is_set()
            if log_is_due or (self._world_size == 1 and state.device.type == "cpu"):
                self._check_loss()
            if log_is_due:
                self._log()
        self._run_log.write("end", step=state.step)

    def _is_due(self, every_epochs: float) -> bool:
        step = self._state.step
        if step >= self._settings.total_steps:
            return True
        # In exact arithmetic: as floats, 0.3 // 0.1 is 2.
        clips = Fraction(str(every_epochs)) * self._settings.num_videos
        return step * self._clips_per_step // clips > (step - 1) * self._clips_per_step // clips

    def _compute_epoch(self, step: int) -> float:
        return step * self._clips_per_step / self._settings.num_videos

    def _fetch(self, batches: DeviceBatches) -> Batch:
        with self._speed.waiting_for_data():
            return batches.fetch()

    def _prefetch(self, batches: DeviceBatches) -> None:
        with self._speed.waiting_for_data():
            batches.prefetch()

    def _run_evaluation(self) -> None:
        self._check_weights()
        distributed.broadcast_buffers(self._state.model)
        cuda_devices = [self._state.device] if self._state.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda_devices):
            metrics = self._evaluate(self._state)
        step = self._state.step
        self._run_log.write("evaluate", step=step, epoch=self._compute_epoch(step), **metrics)
        numbers = "  ".join(
            f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in metrics.items()
        )
        self._progress.announce(f"step {step}  evaluation  {numbers}")
        self._speed.restart()

    def _save(self, *, log: bool) -> None:
        self._check_weights()
        step = self._state.step
        distributed.broadcast_buffers(self._state.model)
        training_state = dump_state(self._state)
        if distributed.is_main_process():
            self._run_log.sync()
            self._checkpoints.save(self._state.model, training_state, step)
        distributed.wait_for_all()
        if log:
            self._run_log.write("save", step=step)
        self._speed.restart()

    def _log(self) -> None:
        state = self._state
        loss_sum, correct, clips = distributed.sum_over_processes(state.window).tolist()
        state.window.zero_()
        loss, clip_top1 = loss_sum / clips, 100 * correct / clips
        self._run_log.write(
            "train",
            step=state.step,
            epoch=self._compute_epoch(state.step),
            clips=state.clips_seen,
            loss=loss,
            learning_rate=self._learning_rate,
            clip_top1=clip_top1,
        )
        speed = self._speed.measure()
        self._run_log.write("speed", step=state.step, **speed)
        self._progress.report(
            state.step,
            f"epoch {self._compute_epoch(state.step):.2f}  loss {loss:.4f}"
            f"  clip_top1 {clip_top1:.1f} %  lr {self._learning_rate:.4g}"
            f"  {speed['clips_per_second']:.1f} clips/s"
            f"  {100 * speed['data_wait_share']:.0f} % waiting for data",
        )
        self._hint_at_waiting(speed["data_wait_share"])

    def _hint_at_waiting(self, share: float) -> None:
        """Says once what to do if steps wait long, not counting that workers start."""
        self._num_logged += 1
        if share < _MUCH_WAITING or self._num_logged < 2 or self._has_hinted:
            return
        self._has_hinted = True
        self._progress.announce(
            f"step {self._state.step}  {100 * share:.0f} % of the time is waiting for clips: raise"
            " data.num_workers up to the number of cores, prepare the videos with short keyframe"
            " intervals, or set data.clips_per_open"
        )

    def _check_loss(self) -> None:
        loss_sum = distributed.sum_over_processes(self._state.window)[0].item()
        if not math.isfinite(loss_sum):
            raise self._make_non_finite_error("the training loss")

    def _check_weights(self) -> None:
        # A finite loss can leave weights that are not; they must not replace the last good ones.
        finite = [parameter.isfinite().all() for parameter in self._state.model.parameters()]
        if not bool(torch.stack(finite).all()):
            raise self._make_non_finite_error("a weight")

    def _make_non_finite_error(self, what: str) -> NonFiniteLossError:
        last = self._checkpoints.find_last()
        return NonFiniteLossError(
            f"{what} is NaN or infinite at step {self._state.step} (learning rate"
            f" {self._learning_rate:g}); the last good checkpoint is {last or 'none'}; lower"
            " training.learning_rate, or set training.warmup_epochs or training.max_gradient_norm"
        )
