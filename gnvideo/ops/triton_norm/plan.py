"""How the work on a tensor is divided among programs: tiles, chunks, splits and their workspace.

A program handles one split of one tile of channels of one clip. It walks its split in chunks of
K * R positions, so that each thread has K loads of 16 bytes under way.

Axes: N clips, C channels, P positions (T * H * W), S splits of a clip, R rows (positions) and BC
channels of a tile, K rows of a chunk that fall to one thread.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

NUM_WARPS = 8
"""Of each program that streams. Two such programs fill a multiprocessor's queue of loads."""

_BYTES_PER_ACCESS = 16
_MAX_CHUNK_ROWS_PER_THREAD = 4
# 64 channels of two bytes are a line of 128 bytes.
_MAX_TILE_CHANNELS = 64
# 256 positions of one channel: several lines in a row of a contiguous tensor.
_MAX_TILE_POSITIONS = 256
_PROGRAMS_PER_MULTIPROCESSOR = 2


@dataclass(frozen=True)
class Plan:
    """The division of (N, C, P). All programs of all launches on one tensor share it.

    Attributes:
        num_clips: N.
        num_channels: C.
        num_positions: P.
        is_channels_last: Whether channels, not positions, are adjacent in memory.
        block_channels: BC.
        block_rows: R.
        rows_per_thread: K.
        num_tiles: Tiles of channels.
        num_splits: S.
        chunks_per_split: Chunks of a split; the last split may have fewer.
        alignment: A power of two up to 16 that divides the adjacent axis.
    """

    num_clips: int
    num_channels: int
    num_positions: int
    is_channels_last: bool
    block_channels: int
    block_rows: int
    rows_per_thread: int
    num_tiles: int
    num_splits: int
    chunks_per_split: int
    alignment: int

    @property
    def num_units(self) -> int:
        """Programs that a launch over the whole tensor has."""
        return self.num_clips * self.num_splits * self.num_tiles

    @property
    def rows_per_split(self) -> int:
        """Positions of each split but the last."""
        return self.chunks_per_split * self.rows_per_thread * self.block_rows

    @property
    def workspace_shape(self) -> tuple[int, int, int, int]:
        """(N, S, 2, C), float32: two sums of each channel in each split, each written once."""
        return (self.num_clips, self.num_splits, 2, self.num_channels)


@functools.lru_cache(maxsize=1024)
def make_plan(
    num_clips: int,
    num_channels: int,
    num_positions: int,
    itemsize_bytes: int,
    is_channels_last: bool,
    num_multiprocessors: int,
    *,
    fills_with_all_clips: bool,
) -> Plan:
    """Returns the division of a tensor (N, C, P) that is not empty.

    One clip alone gets at least two programs for each multiprocessor, if it is long enough. For
    group normalization this does not depend on N, so that the result of a clip is the same to the
    last bit in any batch; batch normalization, whose clips depend on each other anyway, needs as
    many programs from all clips together.

    Args:
        num_clips: N.
        num_channels: C.
        num_positions: P.
        itemsize_bytes: Of an element.
        is_channels_last: Whether channels, not positions, are adjacent in memory.
        num_multiprocessors: Of the GPU.
        fills_with_all_clips: Whether all clips together, instead of each, are to fill the GPU.
    """
    slots = NUM_WARPS * 32 * (_BYTES_PER_ACCESS // itemsize_bytes)
    if is_channels_last:
        block_channels = min(_ceil_to_power_of_two(num_channels), _MAX_TILE_CHANNELS)
        block_rows = min(slots // block_channels, _ceil_to_power_of_two(num_positions))
    else:
        block_rows = min(_MAX_TILE_POSITIONS, _ceil_to_power_of_two(num_positions))
        block_channels = min(slots // block_rows, _ceil_to_power_of_two(num_channels))
    num_tiles = _divide_up(num_channels, block_channels)
    programs = _PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors
    shared_by = num_tiles * (num_clips if fills_with_all_clips else 1)
    wanted_splits = _divide_up(programs, shared_by)
    rows_per_thread = _MAX_CHUNK_ROWS_PER_THREAD
    while rows_per_thread > 1 and num_positions <= (wanted_splits - 1) * rows_per_thread * (
        block_rows
    ):
        rows_per_thread //= 2
    num_chunks = _divide_up(num_positions, rows_per_thread * block_rows)
    chunks_per_split = max(1, num_chunks // wanted_splits)
    return Plan(
        num_clips=num_clips,
        num_channels=num_channels,
        num_positions=num_positions,
        is_channels_last=is_channels_last,
        block_channels=block_channels,
        block_rows=block_rows,
        rows_per_thread=rows_per_thread,
        num_tiles=num_tiles,
        num_splits=_divide_up(num_chunks, chunks_per_split),
        chunks_per_split=chunks_per_split,
        alignment=math.gcd(num_channels if is_channels_last else num_positions, 16),
    )


@dataclass(frozen=True)
class MergePlan:
    """The division of the groups among the programs that merge splits.

    Attributes:
        block_entries: Splits that a program reads at once.
        block_groups: Groups of a program.
        block_channels: Channels of each of its groups that it reads at once.
        num_tiles: Programs for each set of statistics.
    """

    block_entries: int
    block_groups: int
    block_channels: int
    num_tiles: int


@functools.lru_cache(maxsize=1024)
def make_merge_plan(num_channels: int, num_groups: int, num_entries: int) -> MergePlan:
    """Returns the division for G groups of C channels, each channel with so many entries."""
    width = 32
    block_channels = min(_ceil_to_power_of_two(num_channels // num_groups), width)
    block_groups = min(width // block_channels, _ceil_to_power_of_two(num_groups))
    return MergePlan(
        block_entries=min(64, _ceil_to_power_of_two(num_entries)),
        block_groups=block_groups,
        block_channels=block_channels,
        num_tiles=_divide_up(num_groups, block_groups),
    )


def _divide_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _ceil_to_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
