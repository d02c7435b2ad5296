"""The settings of the training loop, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long to train and what is due when.

    Attributes:
        seed: Of the random draws inside the model, such as dropout.
        total_steps: Of the run.
        clips_per_batch: Clips that one process takes through the model at once.
        accumulation_steps: Batches of one step, in each process.
        num_videos: Of the training split: the clips of an epoch.
        precision: Of the model's operators; weights stay float32.
        channels_last: Memory format channels_last_3d for the weights and the clips.
        max_gradient_norm: Longer gradients are scaled down to it; None leaves them.
        log_every_steps: Steps from one line of the log to the next.
        evaluate_every_epochs: An evaluation is due at the first step at or past each multiple, and
            at the end.
        save_every_epochs: Likewise for checkpoints.
    """

    seed: int
    total_steps: int
    clips_per_batch: int
    accumulation_steps: int
    num_videos: int
    precision: Literal["float32", "bfloat16"]
    channels_last: bool
    max_gradient_norm: float | None
    log_every_steps: int
    evaluate_every_epochs: float
    save_every_epochs: float

    def compute_clips_per_step(self, world_size: int) -> int:
        """Returns the clips of one step of `world_size` processes."""
        return self.clips_per_batch * self.accumulation_steps * world_size
