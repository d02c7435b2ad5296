"""Learning rates as pure functions of the step, and the steps that a number of epochs makes.

A step is one update of the weights; it consumes clips_per_batch * processes * accumulation_steps
clips. An epoch is as many clips as the training split has videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from gnvideo.errors import ConfigError

Schedule = Callable[[int], float]

# Of the learning rate at the first step of a warm-up. Source: PySlowFast's Kinetics recipes start
# at a tenth and less of their rate; a first step of 0 would be wasted.
WARMUP_START_FRACTION = 0.01


def scale_learning_rate(
    learning_rate: float, clips_per_step: int, reference_clips_per_step: int | None
) -> float:
    """Returns the rate for `clips_per_step`, linear in it from `reference_clips_per_step`.

    Args:
        learning_rate: The rate at `reference_clips_per_step` clips a step.
        clips_per_step: Clips of one optimizer step, over all processes and accumulated batches.
        reference_clips_per_step: None returns `learning_rate` as it is.

    Source: Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, sec. 2.1.
    """
    if reference_clips_per_step is None:
        return learning_rate
    return learning_rate * clips_per_step / reference_clips_per_step


def count_steps(epochs: float, num_videos: int, clips_per_step: int) -> int:
    """Returns the whole steps that fit into `epochs` passes over `num_videos` videos."""
    return math.floor(epochs * num_videos / clips_per_step)


def count_total_steps(epochs: float, num_videos: int, clips_per_step: int) -> int:
    """Returns the steps of a run, at least 1.

    Raises:
        ConfigError: the epochs hold fewer clips than one step takes.
    """
    total_steps = count_steps(epochs, num_videos, clips_per_step)
    if total_steps < 1:
        raise ConfigError(
            f"training.epochs is {epochs}: {epochs * num_videos:g} clips of {num_videos} videos,"
            f" fewer than the {clips_per_step} of one step; raise epochs or lower clips_per_batch"
        )
    return total_steps


def make_schedule(
    name: Literal["step", "cosine", "constant"],
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    drop_steps: Sequence[int] = (),
    drop_factor: float = 0.1,
) -> Schedule:
    """Returns the function from a step in [0, total_steps) to its learning rate.

    During the first `warmup_steps` the rate rises linearly from `WARMUP_START_FRACTION` of the
    rate that follows, and meets it. After them:
        step      learning_rate * drop_factor ** (number of `drop_steps` at or before the step)
        cosine    falls from learning_rate along half a cosine and reaches 0 at `total_steps`
        constant  learning_rate

    Args:
        name: One of the three.
        learning_rate: After the warm-up, already scaled to the step's clips.
        total_steps: Steps of the whole run.
        warmup_steps: 0 starts at the full rate.
        drop_steps: Only for "step".
        drop_factor: Only for "step".

    Raises:
        ValueError: an unknown name.

    Source: Loshchilov and Hutter, "SGDR", arXiv:1608.03983 (cosine, without restarts).
    """

    def compute_step_rate(step: int) -> float:
        return learning_rate * drop_factor ** sum(drop <= step for drop in drop_steps)

    def compute_cosine_rate(step: int) -> float:
        progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def compute_constant_rate(step: int) -> float:
        return learning_rate

    rates: dict[str, Schedule] = {
        "step": compute_step_rate,
        "cosine": compute_cosine_rate,
        "constant": compute_constant_rate,
    }
    if name not in rates:
        raise ValueError(f"no schedule {name!r}; there are {', '.join(rates)}")
    compute_rate = rates[name]

    def schedule(step: int) -> float:
        if step >= warmup_steps:
            return compute_rate(step)
        fraction = WARMUP_START_FRACTION + (1 - WARMUP_START_FRACTION) * step / warmup_steps
        return fraction * compute_rate(warmup_steps)

    return schedule
