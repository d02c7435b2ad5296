"""The settings of all normalizers.

Axes: C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NormalizerSettings:
    """The settings of all normalizers; each takes those that apply to it.

    Attributes:
        num_groups: Wanted number of groups G of group, group_ws, rms_group, evonorm_s0 and
            batch_channel.
        channels_per_group: Wanted C / G, instead of num_groups; None leaves it to num_groups.
        per_frame: Whether the statistics of group, group_ws, rms_group, layer and instance are over
            (H, W) of each frame instead of (T, H, W) of the clip.
        eps: Added to the variance.
        implementation: Kernels of group, group_ws, layer, instance, batch and frozen_batch: a name
            in `gnvideo.ops.implementation.IMPLEMENTATIONS`.
        momentum: Weight of the newest batch in running statistics. Published with batch_renorm is
            0.01, with moving_average_batch 0.02.
        sub_batch_clips: Clips of a sub-batch.
        history_batches: Batches that moving-average batch norm averages over.
        renorm_max_scale: Final bound of batch renormalization's r.
        renorm_max_shift: Final bound of batch renormalization's d.
        renorm_hold_steps: Batches in which r is 1 and d is 0.
        renorm_scale_steps: Batches after which r has its final bound.
        renorm_shift_steps: Batches after which d has its final bound.
    """

    num_groups: int = 32
    channels_per_group: int | None = None
    per_frame: bool = False
    eps: float = 1e-5
    implementation: str = "auto"
    momentum: float = 0.1
    sub_batch_clips: int = 2
    history_batches: int = 16
    renorm_max_scale: float = 3.0
    renorm_max_shift: float = 5.0
    renorm_hold_steps: int = 5_000
    renorm_scale_steps: int = 40_000
    renorm_shift_steps: int = 25_000
