"""What is counted: clip and video accuracy, in percent 0..100, from predictions of whole videos.

- clip accuracy: every view is a sample of its own;
- video accuracy: every video is a sample; its score is the mean of its views' probabilities;
- mean class accuracy: the mean of the classes' own video top-1 accuracies.

The order of the classes is by falling probability; of equal ones the lower class index comes first,
so a tie has one answer on every machine. With fewer than five classes, top-5 is top-(classes).

Axes: N samples, K classes, all float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP_K = 5
"""The k of top-5; also how many classes a predictions file lists."""

UNLABELLED = -1
"""The label of a video without one, as in a test split."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoPrediction:
    """What the model says about one video.

    Attributes:
        position: The video's place in its split, from 0.
        video_id: Its name in the manifest.
        label: Class index, or -1 where the video has no label.
        num_views: Views that were scored.
        num_top1_views: Views whose first class is the label; 0 without a label.
        num_top5_views: Views with the label among the first five classes; 0 without a label.
        probabilities: (K,) mean over the views.
    """

    position: int
    video_id: str
    label: int
    num_views: int
    num_top1_views: int
    num_top5_views: int
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Accuracies in percent, 0..100."""

    clip_top1: float
    clip_top5: float
    video_top1: float
    video_top5: float
    mean_class_accuracy: float


def rank_classes(probabilities_NK: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns (N, K) class indices, the most probable first, of equal ones the lower index."""
    return np.argsort(-probabilities_NK, axis=1, kind="stable")


def compute_hits(
    probabilities_NK: NDArray[np.float64], labels_N: NDArray[np.int64], k: int
) -> NDArray[np.bool_]:
    """Returns (N,) whether each label is among its sample's first min(k, K) classes."""
    first_classes_Nk = rank_classes(probabilities_NK)[:, :k]
    return (first_classes_Nk == labels_N[:, None]).any(axis=1)


def make_video_prediction(
    position: int, video_id: str, label: int, view_probabilities_VK: NDArray[np.float64]
) -> VideoPrediction:
    """Returns the prediction of one video from the (V, K) probabilities of its V >= 1 views."""
    num_views = len(view_probabilities_VK)
    labels_V = np.full(num_views, label, dtype=np.int64)
    return VideoPrediction(
        position=position,
        video_id=video_id,
        label=label,
        num_views=num_views,
        num_top1_views=int(compute_hits(view_probabilities_VK, labels_V, 1).sum()),
        num_top5_views=int(compute_hits(view_probabilities_VK, labels_V, TOP_K).sum()),
        probabilities=view_probabilities_VK.mean(axis=0),
    )


def compute_metrics(predictions: Sequence[VideoPrediction]) -> Metrics | None:
    """Returns the accuracies over the labelled videos, or None where no video has a label."""
    labelled = [prediction for prediction in predictions if prediction.label != UNLABELLED]
    if not labelled:
        return None
    labels_N = np.array([prediction.label for prediction in labelled], dtype=np.int64)
    probabilities_NK = np.stack([prediction.probabilities for prediction in labelled])
    num_views = sum(prediction.num_views for prediction in labelled)
    top1_N = compute_hits(probabilities_NK, labels_N, 1)
    top5_N = compute_hits(probabilities_NK, labels_N, TOP_K)

    videos_per_class_K = np.bincount(labels_N)
    hits_per_class_K = np.bincount(labels_N[top1_N], minlength=len(videos_per_class_K))
    has_videos_K = videos_per_class_K > 0
    class_accuracies = hits_per_class_K[has_videos_K] / videos_per_class_K[has_videos_K]
    return Metrics(
        clip_top1=_compute_percent(sum(p.num_top1_views for p in labelled), num_views),
        clip_top5=_compute_percent(sum(p.num_top5_views for p in labelled), num_views),
        video_top1=_compute_percent(int(top1_N.sum()), len(labelled)),
        video_top5=_compute_percent(int(top5_N.sum()), len(labelled)),
        mean_class_accuracy=100.0 * float(class_accuracies.mean()),
    )


def _compute_percent(num_hits: int, num_samples: int) -> float:
    return 100.0 * num_hits / num_samples
