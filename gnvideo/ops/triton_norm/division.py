"""The plan of a tensor in the words of the kernels' arguments.

Axes: N clips, C channels, G groups, D = C / G channels of a group, P positions, S splits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from gnvideo.ops.triton_norm.layout import find_layout
from gnvideo.ops.triton_norm.plan import NUM_WARPS, MergePlan, Plan, make_merge_plan, make_plan
from gnvideo.ops.triton_norm.sets import Sets

# Triton warns where fusing is left open, since its default will change.
OPTIONS = {"num_warps": NUM_WARPS, "enable_fp_fusion": True}
# The interpreter runs programs one after the other; so many make several splits of small tensors.
_INTERPRETED_MULTIPROCESSORS = 2


@dataclass(frozen=True)
class Division:
    """How a tensor is divided, and the arguments that say so to a kernel.

    Attributes:
        plan: Of the programs that stream.
        merge: Of those that merge splits.
        num_sets: Sets of statistics: N, or 1 where all clips are one.
        num_entries: Splits of each set.
        num_groups: G.
        group_size: D.
        statistics_step: From one clip's statistics to the next one's.
        num_multiprocessors: Of the GPU.
        sizes: A streaming kernel's last numbers, from `inner_units` on.
        tile: A streaming kernel's constants, from `ALIGNMENT` on.
        merge_sizes: A merging kernel's numbers from `num_merge_tiles` to `num_entries`.
        merge_tile: A merging kernel's constants, from `ENTRIES` on.
    """

    plan: Plan
    merge: MergePlan
    num_sets: int
    num_entries: int
    num_groups: int
    group_size: int
    statistics_step: int
    num_multiprocessors: int
    sizes: tuple[int, ...]
    tile: dict[str, Any]
    merge_sizes: tuple[int, ...]
    merge_tile: dict[str, Any]

    @property
    def units_per_set(self) -> int:
        """Streaming programs of each set."""
        return self.plan.num_units // self.num_sets

    def allocate_workspace(self, x: torch.Tensor) -> torch.Tensor:
        """Returns memory for two sums of each channel in each split, on x's device."""
        return torch.empty(self.plan.workspace_shape, dtype=torch.float32, device=x.device)


def divide(x: torch.Tensor, sets: Sets) -> Division:
    """Returns the division of x (N, C, *), which is not empty and of a known layout."""
    num_clips, num_channels = x.shape[:2]
    return _divide(
        num_clips,
        num_channels,
        x.numel() // (num_clips * num_channels),
        x.element_size(),
        find_layout(x) == "channels_last",
        _count_multiprocessors(x.device),
        sets,
    )


@functools.lru_cache(maxsize=1024)
def _divide(
    num_clips: int,
    num_channels: int,
    num_positions: int,
    itemsize_bytes: int,
    is_channels_last: bool,
    num_multiprocessors: int,
    sets: Sets,
) -> Division:
    plan = make_plan(
        num_clips,
        num_channels,
        num_positions,
        itemsize_bytes,
        is_channels_last,
        num_multiprocessors,
        fills_with_all_clips=sets.joins_clips,
    )
    num_entries = plan.num_splits * (num_clips if sets.joins_clips else 1)
    merge = make_merge_plan(num_channels, sets.num_groups, num_entries)
    inner, outer = num_positions, num_channels
    if is_channels_last:
        inner, outer = outer, inner
    return Division(
        plan=plan,
        merge=merge,
        num_sets=1 if sets.joins_clips else num_clips,
        num_entries=num_entries,
        num_groups=sets.num_groups,
        group_size=num_channels // sets.num_groups,
        statistics_step=0 if sets.joins_clips else sets.num_groups,
        num_multiprocessors=num_multiprocessors,
        sizes=(
            *(inner // plan.alignment, outer),
            *(plan.num_tiles, plan.num_splits, plan.chunks_per_split),
        ),
        tile={
            "ALIGNMENT": plan.alignment,
            "K": plan.rows_per_thread,
            "R": plan.block_rows,
            "BC": plan.block_channels,
            "CHANNELS_LAST": is_channels_last,
        },
        merge_sizes=(merge.num_tiles, num_entries),
        merge_tile={
            "ENTRIES": merge.block_entries,
            "GROUPS": merge.block_groups,
            "CHANNELS": merge.block_channels,
        },
    )


@functools.cache
def _count_multiprocessors(device: torch.device) -> int:
    if device.type == "cpu":
        return _INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
