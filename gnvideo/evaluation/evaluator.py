"""Runs a model over the views of a split: each video exactly once, whatever the process count.

Axes: V views of a video or of a batch, C channels, T frames, H height, W width, K classes,
P positions of the fully convolutional classifier.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gnvideo.errors import ClassListError, ConfigError, GnvideoError, WorkFailedError
from gnvideo.evaluation.metrics import (
    UNLABELLED,
    VideoPrediction,
    compute_metrics,
    make_video_prediction,
)
from gnvideo.evaluation.protocols import Protocol
from gnvideo.evaluation.results import EvaluationResult
from gnvideo.evaluation.view_crops import CROPS_PER_CLIP
from gnvideo.evaluation.view_scoring import PositionClassifier, Precision, View, ViewScorer


class VideoViews(typing.Protocol):
    """The clips of one video, of which the protocol's crops make the views."""

    @property
    def views_VCTHW(self) -> Tensor:
        """(V, C, T, H, W) with V >= 1 clips, uint8."""
        ...

    @property
    def label(self) -> int:
        """Class index, or -1 where the video has none."""
        ...

    @property
    def video_id(self) -> str:
        """The video's name in the manifest."""
        ...

    @property
    def position(self) -> int:
        """The video's place in the split, from 0."""
        ...


def evaluate(
    model: PositionClassifier,
    videos: Iterable[VideoViews],
    *,
    prepare: Callable[[Tensor], Tensor],
    device: torch.device | str,
    class_names: Sequence[str],
    protocol: Protocol,
    num_videos: int,
    precision: Precision = "float32",
    views_per_forward: int = 16,
) -> EvaluationResult:
    """Returns the accuracies and predictions over all processes' videos, the same on each of them.

    Under torch.distributed every process calls this with its own share of the videos. An error of
    one process is raised in all of them, so none waits for another that has left.

    Args:
        model: Put into evaluation mode meanwhile; every module's mode is restored afterwards.
        videos: This process's videos, each with the protocol's number of clips.
        prepare: Makes the model's input from uint8 views (V, C, T, H, W) that are on `device`.
        device: Where the model is.
        class_names: The classes in the order of the model's outputs.
        protocol: What the views are; the result carries its name.
        num_videos: Videos of the whole split, over all processes.
        precision: "bfloat16" runs the model under autocast. The softmax is at least float32.
        views_per_forward: At most so many views go through the model at once; fewer, from then on,
            once the device's memory did not hold as many.

    Raises:
        ClassListError: a label, or the model's number of outputs, does not fit `class_names`.
        ConfigError: `views_per_forward` is below 1.
        ValueError: a video's number of clips is not the protocol's.
        WorkFailedError: the split is empty, a video is missing or met twice, its probabilities are
            not finite, or the device's memory does not hold a single view.
    """
    share: list[VideoPrediction] | GnvideoError
    try:
        share = list(
            predict_videos(
                model,
                _check_num_clips(videos, protocol),
                prepare=prepare,
                device=device,
                class_names=class_names,
                protocol=protocol,
                precision=precision,
                views_per_forward=views_per_forward,
            )
        )
    except GnvideoError as error:
        share = error
    predictions = _order_predictions(_gather_predictions(share), num_videos)
    return EvaluationResult(
        protocol=protocol,
        class_names=tuple(class_names),
        predictions=predictions,
        metrics=compute_metrics(predictions),
    )


def predict_videos(
    model: PositionClassifier,
    videos: Iterable[VideoViews],
    *,
    prepare: Callable[[Tensor], Tensor],
    device: torch.device | str,
    class_names: Sequence[str],
    protocol: Protocol,
    precision: Precision = "float32",
    views_per_forward: int = 16,
) -> Generator[VideoPrediction]:
    """Yields the prediction of each video, in the order of `videos`; arguments as in `evaluate`.

    The model is in evaluation mode from the first prediction asked for until the generator ends or
    is closed. Views of consecutive videos of equal shape share a forward pass, and a video of many
    views takes several; apart from rounding, a prediction does not depend on its neighbours.

    Raises:
        ClassListError: a label, or the model's number of outputs, does not fit `class_names`.
        ConfigError: `views_per_forward` is below 1.
        ValueError: a video has no views.
        WorkFailedError: a video's probabilities are not finite.
    """
    if views_per_forward < 1:
        raise ConfigError(
            f"views_per_forward is {views_per_forward}; it must be at least 1; the default is 16"
        )
    modules_in_training = [module for module in model.modules() if module.training]
    model.eval()
    scorer = ViewScorer(
        model, prepare, torch.device(device), protocol, precision, views_per_forward
    )
    try:
        view_probabilities: list[Tensor] = []
        for pieces in _group_views(videos, CROPS_PER_CLIP[protocol.crop], scorer):
            probabilities_VK = scorer.score([view for piece in pieces for view in piece.views])
            if probabilities_VK.shape[1] != len(class_names):
                raise ClassListError(
                    f"the model has {probabilities_VK.shape[1]} outputs and the class list "
                    f"{len(class_names)} classes; use the class list the model was trained with"
                )
            sizes = [len(piece.views) for piece in pieces]
            for piece, probabilities in zip(pieces, probabilities_VK.split(sizes), strict=True):
                view_probabilities.append(probabilities)
                if piece.is_last:
                    yield _finish_video(piece.video, torch.cat(view_probabilities), class_names)
                    view_probabilities.clear()
    finally:
        # Not model.train(): a module that was frozen in evaluation mode stays so.
        for module in modules_in_training:
            module.training = True


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Consecutive views of one video that go through the model together."""

    video: VideoViews
    views: list[View]
    is_last: bool


def _group_views(
    videos: Iterable[VideoViews], crops_per_clip: int, scorer: ViewScorer
) -> Generator[list[_Piece]]:
    """Yields what goes through the model together: views of clips of one shape, at most so many."""
    pieces: list[_Piece] = []
    room = scorer.views_per_forward
    for video in videos:
        clips_NCTHW = video.views_VCTHW
        if pieces and clips_NCTHW.shape[1:] != pieces[0].video.views_VCTHW.shape[1:]:
            yield pieces
            pieces, room = [], scorer.views_per_forward
        start, num_views = 0, len(clips_NCTHW) * crops_per_clip
        if num_views == 0:
            raise ValueError(f"video {video.video_id} has 0 views; at least 1 must be sampled")
        while start < num_views:
            stop = min(start + room, num_views)
            views = [View(clips_NCTHW, *divmod(n, crops_per_clip)) for n in range(start, stop)]
            pieces.append(_Piece(video, views, stop == num_views))
            room -= stop - start
            start = stop
            if room == 0:
                yield pieces
                pieces, room = [], scorer.views_per_forward
    if pieces:
        yield pieces


def _finish_video(
    video: VideoViews, view_probabilities_VK: Tensor, class_names: Sequence[str]
) -> VideoPrediction:
    if video.label != UNLABELLED and not 0 <= video.label < len(class_names):
        raise ClassListError(
            f"video {video.video_id} has label {video.label}; allowed are 0 to "
            f"{len(class_names) - 1}, or {UNLABELLED} for none; check the class list"
        )
    if not bool(view_probabilities_VK.isfinite().all()):
        raise WorkFailedError(
            f"the model's probabilities for video {video.video_id} are not finite; training has "
            "diverged or the precision is too low; evaluate an earlier checkpoint or in float32"
        )
    return make_video_prediction(
        video.position, video.video_id, video.label, view_probabilities_VK.numpy()
    )


def _check_num_clips(videos: Iterable[VideoViews], protocol: Protocol) -> Generator[VideoViews]:
    for video in videos:
        if len(video.views_VCTHW) != protocol.num_clips:
            raise ValueError(
                f"video {video.video_id} has {len(video.views_VCTHW)} clips; protocol "
                f"{protocol.name} has {protocol.num_clips}; sample the clips by the protocol"
            )
        yield video


def _gather_predictions(share: list[VideoPrediction] | GnvideoError) -> list[VideoPrediction]:
    """Returns the predictions of all processes; raises the first error that any of them met."""
    shares: list[list[VideoPrediction] | GnvideoError] = [share]
    if dist.is_available() and dist.is_initialized():
        shares = typing.cast(
            "list[list[VideoPrediction] | GnvideoError]", [None] * dist.get_world_size()
        )
        dist.all_gather_object(shares, share)
    predictions: list[VideoPrediction] = []
    for gathered in shares:
        if isinstance(gathered, GnvideoError):
            raise gathered
        predictions += gathered
    return predictions


def _order_predictions(
    predictions: list[VideoPrediction], num_videos: int
) -> tuple[VideoPrediction, ...]:
    """Returns the predictions by position; raises unless there is exactly one for each video."""
    if num_videos < 1:
        raise WorkFailedError("the split has 0 videos to evaluate; prepare it or choose another")
    ordered = sorted(predictions, key=lambda prediction: prediction.position)
    positions = [prediction.position for prediction in ordered]
    if positions != list(range(num_videos)):
        num_repeated = len(positions) - len(set(positions))
        num_missing = len(set(range(num_videos)) - set(positions))
        raise WorkFailedError(
            f"{len(positions)} predictions were gathered for {num_videos} videos ({num_repeated} "
            f"repeated, {num_missing} missing); each process must get its own share of the split"
        )
    return tuple(ordered)
