"""The evaluator in one process: what goes through the model, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnvideo.errors import ClassListError, ConfigError, WorkFailedError
from gnvideo.evaluation import EvaluationResult, Protocol, evaluate, predict_videos

CLASS_NAMES = tuple("abcdefg")
TWO_VIEWS = Protocol(
    name="two", num_clips=2, sampling="nonlocal", crop="full", description="for tests"
)
TWO_BY_THREE = Protocol(
    name="two by three", num_clips=2, sampling="nonlocal", crop="three", description="for tests"
)


@dataclass(frozen=True)
class Video:
    views_VCTHW: Tensor
    label: int
    video_id: str
    position: int


class SmallClassifier(nn.Module):
    """Convolution, GroupNorm, dropout, then pooling at stride 1 and a linear layer."""

    def __init__(self, views_in_memory: int = 1000):
        super().__init__()
        self.views_in_memory = views_in_memory
        self.convolution = nn.Conv3d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, len(CLASS_NAMES))
        self.views_per_call: list[int] = []
        self.logits_of_calls: list[Tensor] = []

    def compute_position_logits(self, clips_NCTHW: Tensor) -> Tensor:
        self.views_per_call.append(len(clips_NCTHW))
        if len(clips_NCTHW) > self.views_in_memory:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        features = self.dropout(self.norm(self.convolution(clips_NCTHW)).relu())
        pooled = nn.functional.avg_pool3d(features, (2, 4, 4), stride=1)
        logits_NKP = self.classifier(pooled.flatten(2).transpose(1, 2)).transpose(1, 2)
        self.logits_of_calls.append(logits_NKP)
        return logits_NKP

    def compute_whole_logits(self, clips_NCTHW: Tensor) -> Tensor:
        features = self.dropout(self.norm(self.convolution(clips_NCTHW)).relu())
        return self.classifier(features.mean((2, 3, 4)))[..., None]


class TableClassifier(nn.Module):
    """Gives the logits of a table: the row that a view's first pixel names."""

    def __init__(self, table_RKP: list[list[list[float]]]):
        super().__init__()
        self.table_RKP = torch.tensor(table_RKP)

    def compute_position_logits(self, clips_NCTHW: Tensor) -> Tensor:
        return self.table_RKP[clips_NCTHW[:, 0, 0, 0, 0].long()]

    def compute_whole_logits(self, clips_NCTHW: Tensor) -> Tensor:
        return self.compute_position_logits(clips_NCTHW).mean(2, keepdim=True)


def make_small_classifier(views_in_memory: int = 1000) -> SmallClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallClassifier(views_in_memory).double()


def make_videos(widths: tuple[int, ...], num_views: int = 2) -> list[Video]:
    generator = torch.Generator().manual_seed(1)
    return [
        Video(
            torch.randint(
                0, 256, (num_views, 3, 3, 5, width), generator=generator, dtype=torch.uint8
            ),
            position % len(CLASS_NAMES),
            f"video{position}",
            position,
        )
        for position, width in enumerate(widths)
    ]


def make_table_videos(rows: list[list[int]], labels: list[int]) -> list[Video]:
    return [
        Video(torch.tensor(row, dtype=torch.uint8).reshape(-1, 1, 1, 1, 1), label, f"v{i}", i)
        for i, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]


def scale(views_VCTHW: Tensor) -> Tensor:
    assert views_VCTHW.dtype == torch.uint8
    return views_VCTHW.double() / 255


def run(
    model: SmallClassifier | TableClassifier,
    videos: list[Video],
    *,
    prepare: Callable[[Tensor], Tensor] = scale,
    class_names: tuple[str, ...] = CLASS_NAMES,
    protocol: Protocol = TWO_VIEWS,
    num_videos: int | None = None,
    views_per_forward: int = 16,
) -> EvaluationResult:
    return evaluate(
        model,
        videos,
        prepare=prepare,
        device="cpu",
        class_names=class_names,
        protocol=protocol,
        num_videos=len(videos) if num_videos is None else num_videos,
        views_per_forward=views_per_forward,
    )


def run_table(table_RKP: list[list[list[float]]], videos: list[Video]) -> EvaluationResult:
    class_names = CLASS_NAMES[: len(table_RKP[0])]
    return run(TableClassifier(table_RKP), videos, prepare=lambda v: v, class_names=class_names)


@pytest.mark.parametrize("views_per_forward", [1, 2, 3, 7, 16])
def test_probabilities_equal_those_of_each_view_alone(views_per_forward: int):
    model = make_small_classifier()
    videos = make_videos((6, 6, 6, 9, 6, 6))
    result = run(model, videos, views_per_forward=views_per_forward)
    model.eval()
    for video, prediction in zip(videos, result.predictions, strict=True):
        with torch.no_grad():
            expected = torch.stack(
                [
                    model.compute_position_logits(scale(view[None]))[0].softmax(0).mean(1)
                    for view in video.views_VCTHW
                ]
            ).mean(0)
        # float64 convolutions of other batch sizes may sum in another order.
        np.testing.assert_allclose(prediction.probabilities, expected.numpy(), rtol=1e-12)


def test_views_of_videos_of_one_shape_share_a_forward_up_to_the_limit():
    model = make_small_classifier()
    run(model, make_videos((6, 6, 6, 9, 6, 6)), views_per_forward=5)
    # Three videos of width 6, one of width 9, two of width 6; two views each.
    assert model.views_per_call == [5, 1, 2, 4]


@pytest.mark.parametrize("views_per_forward", [1, 4, 5, 16])
def test_three_crops_are_views_of_their_own(views_per_forward: int):
    model = make_small_classifier()
    videos = make_videos((8, 8, 9, 5, 4))
    result = run(model, videos, protocol=TWO_BY_THREE, views_per_forward=views_per_forward)
    offsets = {8: (0, 2, 3), 9: (0, 2, 4), 5: (0, 0, 0)}
    model.eval()
    for video, prediction in zip(videos, result.predictions, strict=True):
        clips = video.views_VCTHW
        if clips.shape[-1] == 4:
            crops = [clips[..., top : top + 4, :] for top in (0, 1, 1)]
        else:
            crops = [clips[..., left : left + 5] for left in offsets[clips.shape[-1]]]
        with torch.no_grad():
            logits_VKP = model.compute_position_logits(scale(torch.cat(crops)))
        # float64 convolutions of other batch sizes may sum in another order.
        expected = logits_VKP.softmax(1).mean((0, 2)).numpy()
        np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-12)
        assert prediction.num_views == 6


def test_a_clip_is_prepared_once_for_its_three_crops():
    prepared: list[int] = []

    def count(views_VCTHW: Tensor) -> Tensor:
        prepared.append(len(views_VCTHW))
        return scale(views_VCTHW)

    model = make_small_classifier()
    run(model, make_videos((8, 8, 9)), protocol=TWO_BY_THREE, prepare=count, views_per_forward=9)
    assert model.views_per_call == [9, 3, 6]
    assert prepared == [3, 1, 2]


def test_pooling_of_the_whole_view_classifies_once():
    model = make_small_classifier()
    videos = make_videos((9, 8))
    result = run(model, videos, protocol=replace(TWO_BY_THREE, pooling="whole"))
    assert model.views_per_call == []
    model.eval()
    crops = [videos[0].views_VCTHW[..., left : left + 5] for left in (0, 2, 4)]
    with torch.no_grad():
        expected = model.compute_whole_logits(scale(torch.cat(crops))).softmax(1).mean((0, 2))
    # float64 convolutions of other batch sizes may sum in another order.
    np.testing.assert_allclose(result.predictions[0].probabilities, expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("views_in_memory", "calls"),
    [(5, [12, 6, 3, 3, 3, 3]), (1, [12, 6, 3, *[1] * 12]), (12, [12])],
)
def test_views_are_halved_until_the_memory_holds_them(
    views_in_memory: int, calls: list[int], caplog: pytest.LogCaptureFixture
):
    videos = make_videos((6,) * 6)
    expected = run(make_small_classifier(), videos)
    caplog.clear()
    caplog.set_level("INFO")
    model = make_small_classifier(views_in_memory)
    result = run(model, videos)
    assert model.views_per_call == calls
    halvings = [record.getMessage() for record in caplog.records]
    assert len(halvings) == sum(count > views_in_memory for count in calls)
    if halvings:
        assert halvings[0] == ("the memory of cpu does not hold 12 views at once; going on with 6")
    for prediction, alone in zip(result.predictions, expected.predictions, strict=True):
        np.testing.assert_allclose(prediction.probabilities, alone.probabilities, rtol=1e-12)


def test_what_did_not_fit_once_is_not_tried_again():
    model = make_small_classifier(views_in_memory=4)
    run(model, make_videos((6,) * 20), views_per_forward=8)
    assert model.views_per_call == [8, *[4] * 10]


def test_a_view_that_does_not_fit_alone_ends_the_evaluation():
    with pytest.raises(WorkFailedError, match="does not hold the model and a single view"):
        run(make_small_classifier(views_in_memory=0), make_videos((6,)))


def test_the_softmax_is_taken_at_each_position_before_the_mean():
    # Two positions prefer class 1 and one prefers class 0, by so much that the mean logit is class
    # 0's; as probabilities all positions count the same, and the mean is class 1's.
    table = [[[0.0, 0.0, 10.0], [2.0, 2.0, 0.0]]]
    prediction = run_table(table, make_table_videos([[0, 0]], [1])).predictions[0]
    expected = (2 / (1 + np.exp(-2.0)) + 1 / (1 + np.exp(10.0))) / 3
    np.testing.assert_allclose(prediction.probabilities, [1 - expected, expected], rtol=1e-6)
    assert prediction.num_top1_views == 2


def test_each_view_is_counted_and_the_video_is_scored_by_the_mean():
    sure, unsure = [[5.0], [0.0]], [[0.0], [0.5]]
    result = run_table([sure, unsure], make_table_videos([[0, 1], [1, 1]], [0, 0]))
    assert result.metrics is not None
    assert (result.metrics.clip_top1, result.metrics.video_top1) == (25.0, 50.0)


def test_modes_are_restored_and_a_frozen_module_stays_frozen():
    model = make_small_classifier()
    model.norm.eval()
    run(model, make_videos((6,)))
    assert model.training
    assert model.dropout.training
    assert not model.norm.training


def test_modes_are_restored_after_a_failure():
    model = make_small_classifier()
    with pytest.raises(ClassListError):
        run(model, make_videos((6,)), class_names=("a", "b"))
    assert model.dropout.training


def test_bfloat16_runs_the_model_under_autocast_and_the_softmax_in_float32():
    model = make_small_classifier().float()
    (prediction,) = predict_videos(
        model,
        make_videos((6,)),
        prepare=lambda views: views.float() / 255,
        device="cpu",
        class_names=CLASS_NAMES,
        protocol=TWO_VIEWS,
        precision="bfloat16",
    )
    (logits_VKP,) = model.logits_of_calls
    assert logits_VKP.dtype == torch.bfloat16
    expected = logits_VKP.double().softmax(1).mean((0, 2)).numpy()
    # Rounding of float32; a softmax in bfloat16 misses by up to 2^-9.
    np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_probabilities_that_are_not_finite_name_the_video(bad: float):
    table = [[[0.0], [1.0]], [[0.0], [bad]]]
    with pytest.raises(WorkFailedError, match="video v1 are not finite"):
        run_table(table, make_table_videos([[0, 0], [0, 1]], [0, 0]))


@pytest.mark.parametrize("label", [-2, 7])
def test_a_label_outside_the_class_list_names_the_video(label: int):
    videos = [Video(make_videos((6,))[0].views_VCTHW, label, "strange", 0)]
    with pytest.raises(ClassListError, match=rf"strange has label {label}; allowed are 0 to 6"):
        run(make_small_classifier(), videos)


def test_a_model_with_other_outputs_than_classes_is_refused():
    with pytest.raises(ClassListError, match="7 outputs and the class list 2 classes"):
        run(make_small_classifier(), make_videos((6,)), class_names=("a", "b"))


def test_predictions_come_in_the_order_of_the_split():
    result = run(make_small_classifier(), make_videos((6, 6, 9))[::-1])
    assert [prediction.video_id for prediction in result.predictions] == [
        "video0",
        "video1",
        "video2",
    ]


def test_a_video_met_twice_is_refused():
    videos = make_videos((6, 6, 6))
    with pytest.raises(WorkFailedError, match="1 repeated, 1 missing"):
        run(make_small_classifier(), [videos[0], videos[1], videos[1]])


def test_a_missing_video_is_refused():
    with pytest.raises(WorkFailedError, match=r"2 predictions .* for 3 videos .*1 missing"):
        run(make_small_classifier(), make_videos((6, 6)), num_videos=3)


def test_an_empty_split_is_refused():
    with pytest.raises(WorkFailedError, match="0 videos"):
        run(make_small_classifier(), [])


def test_a_video_with_other_clips_than_the_protocol_is_refused():
    with pytest.raises(ValueError, match="video0 has 3 clips; protocol two has 2"):
        run(make_small_classifier(), make_videos((6,), num_views=3))


def test_a_video_without_views_is_refused():
    predictions = predict_videos(
        make_small_classifier(),
        make_videos((6,), num_views=0),
        prepare=scale,
        device="cpu",
        class_names=CLASS_NAMES,
        protocol=TWO_VIEWS,
    )
    with pytest.raises(ValueError, match="video0 has 0 views"):
        list(predictions)


def test_views_per_forward_below_one_is_refused():
    with pytest.raises(ConfigError, match="views_per_forward is 0"):
        run(make_small_classifier(), make_videos((6,)), views_per_forward=0)


def test_unlabelled_videos_are_predicted_without_metrics():
    videos = [Video(make_videos((6,))[0].views_VCTHW, -1, "unlabelled", 0)]
    result = run(make_small_classifier(), videos)
    assert result.metrics is None
    assert result.predictions[0].video_id == "unlabelled"
