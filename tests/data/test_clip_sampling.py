from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnvideo.data.clip_sampling import sample_center_clip, sample_test_clips, sample_train_clip

GOLDEN: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "clip_sampling.json").read_text()
)

lengths = st.integers(1, 400)
counts = st.integers(1, 70)
strides = st.integers(1, 12)


def name_case(case: dict[str, Any]) -> str:
    return "N{num_video_frames}-T{num_frames}-s{stride}".format(**case)


@pytest.mark.parametrize("case", GOLDEN["test_clips"], ids=name_case)
def test_test_clips_start_where_the_paper_s_code_starts_them(case: dict[str, Any]) -> None:
    clips = sample_test_clips(
        case["num_video_frames"], case["num_frames"], case["stride"], case["num_clips"]
    )
    assert clips[:, 0].tolist() == case["starts"]
    assert clips[-1, -1] == case["last_of_last_clip"]


@pytest.mark.parametrize("case", GOLDEN["center_clips"], ids=name_case)
def test_center_clip_has_as_many_frames_before_it_as_after_it(case: dict[str, Any]) -> None:
    clip = sample_center_clip(case["num_video_frames"], case["num_frames"], case["stride"])
    assert (clip[0], clip[-1]) == (case["start"], case["last"])


@pytest.mark.parametrize("case", GOLDEN["train_clips"], ids=name_case)
def test_train_clips_start_at_every_place_where_the_span_fits(case: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    starts = {
        int(
            sample_train_clip(
                case["num_video_frames"], case["num_frames"], case["stride"], generator
            )[0]
        )
        for _ in range(4000)
    }
    assert starts == set(range(case["last_start"] + 1))


@given(lengths, counts, strides, st.integers(1, 12), st.integers(0, 2**32))
def test_indices_have_the_exact_count_lie_within_the_video_and_ascend_before_they_wrap(
    num_video_frames: int, num_frames: int, stride: int, num_clips: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    train = sample_train_clip(num_video_frames, num_frames, stride, generator)
    center = sample_center_clip(num_video_frames, num_frames, stride)
    test = sample_test_clips(num_video_frames, num_frames, stride, num_clips)
    assert test.shape == (num_clips, num_frames)
    for clip in (train, center, *test):
        assert clip.shape == (num_frames,)
        assert clip.dtype == np.int64
        assert 0 <= clip.min() <= clip.max() < num_video_frames
        unwrapped = clip[0] + stride * np.arange(num_frames)
        assert np.array_equal(clip, unwrapped % num_video_frames)
    if (num_frames - 1) * stride < num_video_frames:
        assert np.all(np.diff(train) == stride)
        assert np.all(np.diff(center) == stride)


@given(st.integers(1, 3000), st.integers(1, 20))
def test_integer_rule_equals_the_floating_point_rule_of_the_paper_s_code(
    num_video_frames: int, num_clips: int
) -> None:
    starts = sample_test_clips(num_video_frames, 1, 1, num_clips)[:, 0].tolist()
    exact = [int(num_video_frames * j // num_clips) % num_video_frames for j in range(num_clips)]
    assert starts == exact
    floating = [int(num_video_frames / num_clips * j) % num_video_frames for j in range(num_clips)]
    assert np.abs(np.subtract(starts, floating)).max() <= 1


@pytest.mark.parametrize("arguments", [(0, 4, 2), (10, 0, 2), (10, 4, 0)])
def test_counts_and_strides_below_one_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sample_center_clip(*arguments)
    with pytest.raises(ValueError, match="at least 1"):
        sample_train_clip(*arguments, np.random.default_rng())
    with pytest.raises(ValueError, match="at least 1"):
        sample_test_clips(*arguments, 1)
    with pytest.raises(ValueError, match="num_clips"):
        sample_test_clips(10, 4, 2, 0)
