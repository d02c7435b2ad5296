"""The metrics against a second, exact definition in fractions, on scores with many ties."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnvideo.evaluation.metrics import (
    VideoPrediction,
    compute_metrics,
    make_video_prediction,
    rank_classes,
)

# (label, score of each view and class): sixty-fourths, so that float64 sums are exact.
VideoScores = tuple[int, list[list[int]]]


@st.composite
def splits(draw: st.DrawFn, num_views: int | None = None) -> list[VideoScores]:
    """Draws labelled videos of one split with small integer scores."""
    num_classes = draw(st.integers(1, 8))
    views = draw(st.integers(1, 4)) if num_views is None else num_views
    scores = st.lists(st.integers(0, 3), min_size=num_classes, max_size=num_classes)
    video = st.tuples(
        st.integers(0, num_classes - 1), st.lists(scores, min_size=views, max_size=views)
    )
    return draw(st.lists(video, min_size=1, max_size=9))


def predict(videos: list[VideoScores]) -> list[VideoPrediction]:
    return [
        make_video_prediction(position, f"video{position}", label, np.array(views) / 64)
        for position, (label, views) in enumerate(videos)
    ]


def measure(videos: list[VideoScores]) -> dict[str, float]:
    metrics = compute_metrics(predict(videos))
    assert metrics is not None
    return asdict(metrics)


def is_hit(scores: list[int], label: int, k: int) -> bool:
    """Counts the classes that stand before the label."""
    ahead = sum(
        score > scores[label] or (score == scores[label] and index < label)
        for index, score in enumerate(scores)
    )
    return ahead < k


def percent(hits: list[bool]) -> Fraction:
    return Fraction(100 * sum(hits), len(hits))


def sum_views(views: list[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*views, strict=True)]


@given(splits())
def test_metrics_equal_the_exact_definition(videos: list[VideoScores]):
    by_class: dict[int, list[bool]] = {}
    for label, views in videos:
        by_class.setdefault(label, []).append(is_hit(sum_views(views), label, 1))
    class_accuracies = [percent(hits) for hits in by_class.values()]
    expected = {
        "clip_top1": percent([is_hit(view, label, 1) for label, views in videos for view in views]),
        "clip_top5": percent([is_hit(view, label, 5) for label, views in videos for view in views]),
        "video_top1": percent([is_hit(sum_views(views), label, 1) for label, views in videos]),
        "video_top5": percent([is_hit(sum_views(views), label, 5) for label, views in videos]),
        "mean_class_accuracy": sum(class_accuracies, Fraction()) / len(class_accuracies),
    }
    # A few roundings of float64; percentages go up to 100.
    assert measure(videos) == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-14, abs=1e-12
    )


@given(splits(), st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_the_videos(videos, random):
    shuffled = list(videos)
    random.shuffle(shuffled)
    assert measure(shuffled) == pytest.approx(measure(videos), rel=1e-14)


@given(splits(num_views=1))
def test_clip_and_video_accuracy_agree_when_each_video_has_one_view(videos: list[VideoScores]):
    metrics = measure(videos)
    assert metrics["clip_top1"] == metrics["video_top1"]
    assert metrics["clip_top5"] == metrics["video_top5"]


@given(splits())
def test_top5_is_top_of_all_classes_when_there_are_at_most_five(videos: list[VideoScores]):
    metrics = measure(videos)
    assert 0 <= metrics["video_top1"] <= metrics["video_top5"] <= 100
    if len(videos[0][1][0]) <= 5:
        assert metrics["clip_top5"] == metrics["video_top5"] == 100


@given(splits(), st.integers(1, 4))
def test_mean_class_accuracy_does_not_depend_on_how_often_a_class_occurs(videos, repeats):
    first_label = videos[0][0]
    of_first_class = [video for video in videos if video[0] == first_label]
    metrics = measure(videos + of_first_class * repeats)
    assert metrics["mean_class_accuracy"] == pytest.approx(
        measure(videos)["mean_class_accuracy"], rel=1e-13
    )


def test_classes_without_videos_do_not_enter_the_mean_class_accuracy():
    videos: list[VideoScores] = [(1, [[0, 9, 0, 0]]), (1, [[9, 0, 0, 0]]), (3, [[0, 0, 0, 9]])]
    assert measure(videos)["mean_class_accuracy"] == 75.0


def test_of_equal_probabilities_the_lower_class_comes_first():
    np.testing.assert_array_equal(rank_classes(np.array([[0.2, 0.3, 0.2, 0.3]])), [[1, 3, 0, 2]])


def test_the_video_score_is_the_mean_and_not_the_vote_of_the_views():
    # Two of three views prefer class 0 by a little, the third class 1 by much.
    prediction = make_video_prediction(0, "a", 1, np.array([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]]))
    metrics = compute_metrics([prediction])
    assert metrics is not None
    assert metrics.video_top1 == 100.0
    assert metrics.clip_top1 == pytest.approx(100 / 3, rel=1e-15)


def test_unlabelled_videos_are_not_counted():
    videos: list[VideoScores] = [(0, [[9, 0]]), (1, [[9, 0]])]
    assert measure([*videos, (-1, [[9, 0]])]) == measure(videos)


def test_without_any_label_there_are_no_metrics():
    assert compute_metrics(predict([(-1, [[9, 0]])])) is None
