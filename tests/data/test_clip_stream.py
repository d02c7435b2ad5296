from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnvideo.data.clip_stream import (
    REPEAT_DISTANCE,
    ClipStream,
    make_generator,
    make_order,
)

SIZES = st.integers(1, 400)
REPEATS = st.integers(1, 5)


@pytest.mark.parametrize("num_videos", [1, 5, 1000])
def test_an_order_is_the_permutation_that_numpy_draws(num_videos: int) -> None:
    # In half the memory: numpy's own has 8 bytes a video.
    order = make_order(3, 2, num_videos)
    assert order.dtype == np.int32
    expected = make_generator("order/3/2").permutation(num_videos)
    np.testing.assert_array_equal(order, expected)


def test_each_epoch_has_an_order_of_its_own() -> None:
    assert len({tuple(make_order(3, epoch, 5).tolist()) for epoch in range(20)}) > 10


def test_with_one_clip_an_opened_video_the_stream_is_order_after_order() -> None:
    stream = ClipStream(7, seed=3)
    for position in range(30):
        epoch, place = divmod(position, 7)
        assert stream.locate(position) == (make_order(3, epoch, 7)[place], epoch)
        assert list(stream.find_repeats(position)) == []


@settings(deadline=None)
@given(num_videos=SIZES, repeats=REPEATS, cycle=st.integers(0, 3))
def test_each_cycle_has_each_video_once_in_each_of_its_epochs(
    num_videos: int, repeats: int, cycle: int
) -> None:
    stream = ClipStream(num_videos, 0, repeats)
    size = num_videos * repeats
    places = [stream.locate(cycle * size + q) for q in range(size)]
    epochs = range(cycle * repeats, (cycle + 1) * repeats)
    assert sorted(places) == [(video, epoch) for video in range(num_videos) for epoch in epochs]


@settings(deadline=None)
@given(num_videos=SIZES, repeats=st.integers(2, 5))
def test_repeats_are_of_the_same_video_in_other_batches_and_near(
    num_videos: int, repeats: int
) -> None:
    stream = ClipStream(num_videos, 0, repeats)
    distance = min(REPEAT_DISTANCE, num_videos // repeats)
    for position in range(2 * num_videos * repeats):
        video, epoch = stream.locate(position)
        for repeat in stream.find_repeats(position):
            other_video, other_epoch = stream.locate(repeat)
            assert other_video == video
            assert other_epoch // repeats == epoch // repeats
            assert other_epoch != epoch
            apart = repeat - position
            # The last of a cycle of few videos may lie next to the first.
            assert (distance - 1) * repeats < apart <= (repeats - 1) * (distance * repeats + 1)


@pytest.mark.parametrize(
    ("num_videos", "repeats", "max_waiting"), [(1000, 2, 64), (1000, 4, 384), (100, 3, 200)]
)
def test_most_videos_are_opened_once_a_cycle_and_few_clips_wait(
    num_videos: int, repeats: int, max_waiting: int
) -> None:
    stream = ClipStream(num_videos, 0, repeats)
    distance = min(REPEAT_DISTANCE, num_videos // repeats)
    opened = Counter[int]()
    waiting: set[int] = set()
    most_waiting = 0
    for position in range(num_videos * repeats):
        if position in waiting:
            waiting.remove(position)
        else:
            opened[stream.locate(position)[0]] += 1
            waiting.update(stream.find_repeats(position))
        most_waiting = max(most_waiting, len(waiting))
    assert set(opened) == set(range(num_videos))
    # Only those whose clips lie at both ends of the cycle are opened again.
    assert opened.total() - num_videos <= (repeats - 1) * distance
    assert most_waiting <= max_waiting + repeats


@pytest.mark.parametrize("clips_per_batch", [4, 8, 32])
def test_all_clips_of_a_video_are_needed_on_one_of_four_ranks(clips_per_batch: int) -> None:
    stream = ClipStream(10_000, 0, 2)
    for position in range(2_000):
        for repeat in stream.find_repeats(position):
            assert repeat // clips_per_batch % 4 == position // clips_per_batch % 4


def test_counts_below_one_are_refused() -> None:
    for counts in ((0, 0, 1), (5, 0, 0)):
        with pytest.raises(ValueError, match="must be at least"):
            ClipStream(*counts)
