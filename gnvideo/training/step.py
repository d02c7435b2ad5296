"""One step: the gradients of one or more batches, then one update of the weights.

N clips, C channels, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from gnvideo.training.device_batches import Batch
from gnvideo.training.state import TrainingState

# From uint8 clips (N, C, T, H, W) on the device to the model's float input.
Prepare = Callable[[torch.Tensor], torch.Tensor]
# Returns the context that a forward pass in training runs in.
RecordForward = Callable[[], AbstractContextManager[None]]


def take_step(
    state: TrainingState,
    parallel_model: nn.Module,
    fetch: Callable[[], Batch],
    prefetch: Callable[[], None],
    prepare: Prepare,
    *,
    learning_rate: float,
    accumulation_steps: int,
    precision: str,
    channels_last: bool,
    max_gradient_norm: float | None,
    record_forward: RecordForward = nullcontext,
) -> None:
    """Takes one step and adds its loss and correct clips to `state.window`.

    The loss is the mean over the step's clips: over the batch here, over `accumulation_steps`
    batches by the division, over processes by the wrapped model. Nothing waits for the device.

    Args:
        state: Its model, optimizer and window change; the loop counts steps and clips.
        parallel_model: `distributed.wrap_model` of the state's model.
        fetch: Returns the next batch, on the device.
        prefetch: Called when the device has the work on a batch: the next may be fetched.
        prepare: See `Prepare`.
        learning_rate: Of this step.
        accumulation_steps: Batches of the step. Batch statistics see one batch at a time.
        precision: "float32", or "bfloat16" for autocast; weights and the loss stay float32.
        channels_last: Whether the model's weights are channels_last_3d.
        record_forward: Enters the context of a forward pass in training, which decides what is kept
            for the backward pass.
        max_gradient_norm: Scales longer gradients down to this norm; None leaves them.
    """
    state.optimizer.clear_gradients()
    for index in range(accumulation_steps):
        batch = fetch()
        clips = prepare(batch.clips_NCTHW)
        if channels_last:
            clips = clips.contiguous(memory_format=torch.channels_last_3d)
        labels = batch.labels_N
        with _gradients_stay_here(parallel_model, is_last=index == accumulation_steps - 1):
            autocast = torch.autocast(
                state.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"
            )
            with autocast, record_forward():
                logits = parallel_model(clips)
            loss = functional.cross_entropy(logits.float(), labels)
            (loss / accumulation_steps).backward()
        num_clips = len(labels)
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        state.window[0] += loss.detach() * num_clips
        state.window[1] += correct
        state.window[2] += num_clips
        if index < accumulation_steps - 1:
            prefetch()
    if max_gradient_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), max_gradient_norm)
    state.optimizer.step(learning_rate)
    prefetch()


def _gradients_stay_here(
    parallel_model: nn.Module, *, is_last: bool
) -> AbstractContextManager[None]:
    # Processes exchange the sum of the step's gradients once, with its last batch.
    if isinstance(parallel_model, DistributedDataParallel) and not is_last:
        return parallel_model.no_sync()
    return nullcontext()
