"""How Triton's kernels divide their work, on the shapes of the I3D ResNet-50 of 32 frames."""

from __future__ import annotations

import math

import pytest

from gnvideo.ops.triton_norm.plan import NUM_WARPS, Plan, make_merge_plan, make_plan

MULTIPROCESSORS = 132
# (C, positions) of every normalizer's input, 32 frames of 224 x 224.
I3D_SHAPES = [
    *((64, 200704), (64, 25088), (256, 25088), (128, 12544), (128, 3136), (512, 3136)),
    *((256, 3136), (256, 784), (1024, 784), (512, 784), (512, 196), (2048, 196)),
]
shapes = pytest.mark.parametrize(
    ("channels", "positions"), [*I3D_SHAPES, (3, 7), (70, 1000), (1, 1), (8, 5), (4096, 49)]
)
layouts = pytest.mark.parametrize("is_channels_last", [True, False], ids=["NTHWC", "NCTHW"])
sizes = pytest.mark.parametrize("itemsize", [2, 4])


def plan(channels, positions, *, clips=1, itemsize=2, is_channels_last=True, joins=False) -> Plan:
    return make_plan(
        *(clips, channels, positions, itemsize, is_channels_last, MULTIPROCESSORS),
        fills_with_all_clips=joins,
    )


def count_workspace_bytes(made: Plan) -> int:
    """Of float32 numbers."""
    return 4 * math.prod(made.workspace_shape)


@sizes
@layouts
@shapes
def test_splits_cover_each_position_once(channels, positions, is_channels_last, itemsize):
    made = plan(channels, positions, itemsize=itemsize, is_channels_last=is_channels_last)

    assert (made.num_splits - 1) * made.rows_per_split < positions
    assert positions <= made.num_splits * made.rows_per_split
    assert (made.num_tiles - 1) * made.block_channels < channels
    assert channels <= made.num_tiles * made.block_channels


@sizes
@layouts
@shapes
def test_a_thread_has_at_most_one_access_of_16_bytes_in_a_row(
    channels, positions, is_channels_last, itemsize
):
    made = plan(channels, positions, itemsize=itemsize, is_channels_last=is_channels_last)

    assert made.block_rows * made.block_channels * itemsize <= 16 * 32 * NUM_WARPS


@pytest.mark.parametrize(("channels", "positions"), I3D_SHAPES)
def test_workspace_is_small_for_up_to_16_clips(channels, positions):
    for clips in (1, 2, 4, 8, 16):
        for joins in (False, True):
            made = plan(channels, positions, clips=clips, joins=joins)
            assert made.workspace_shape == (clips, made.num_splits, 2, channels)
            assert count_workspace_bytes(made) <= 4e6


def test_workspace_does_not_grow_with_the_clips_length():
    bounds = [
        count_workspace_bytes(plan(64, frames * 12544)) for frames in (16, 32, 64, 1000, 100_000)
    ]
    # Between one and two times the wanted number of programs, whatever the length.
    programs = 2 * MULTIPROCESSORS
    assert all(programs <= size / (2 * 64 * 4) <= 2 * programs for size in bounds)


@layouts
def test_one_clip_alone_fills_the_gpu_at_the_stem(is_channels_last):
    made = plan(64, 200704, is_channels_last=is_channels_last)
    assert made.num_units >= 2 * MULTIPROCESSORS


def test_the_division_of_a_clip_does_not_depend_on_how_many_there_are():
    one, many = plan(64, 25088, clips=1), plan(64, 25088, clips=16)
    assert many.num_splits == one.num_splits
    assert many.chunks_per_split == one.chunks_per_split
    assert many.rows_per_thread == one.rows_per_thread


def test_clips_that_share_statistics_fill_the_gpu_together():
    assert 2 * MULTIPROCESSORS <= plan(64, 200704, clips=16, joins=True).num_units < 4 * 132


@pytest.mark.parametrize("groups", [1, 2, 32, 64, 128])
def test_merging_programs_cover_each_group_once(groups):
    made = make_merge_plan(128, groups, 300)
    assert (made.num_tiles - 1) * made.block_groups < groups <= made.num_tiles * made.block_groups
    assert made.block_entries * made.block_groups * made.block_channels <= 64 * 32


@pytest.mark.parametrize(
    ("channels", "positions", "is_channels_last", "alignment"),
    [(64, 5, True, 16), (24, 5, True, 8), (7, 64, True, 1), (7, 64, False, 16), (64, 49, False, 1)],
)
def test_alignment_is_that_of_the_adjacent_axis(channels, positions, is_channels_last, alignment):
    assert plan(channels, positions, is_channels_last=is_channels_last).alignment == alignment
