from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnvideo.errors import OutputError, SaveFailedError
from gnvideo.evaluation import (
    EvaluationResult,
    compute_metrics,
    get_protocol,
    make_evaluation_stem,
    save_evaluation,
)
from gnvideo.evaluation.metrics import make_video_prediction
from gnvideo.evaluation.results import Statistics

CLASS_NAMES = ("archery", "cooking, on campfire", "fügen", "d", "e", "f")


def make_result(labels: tuple[int, ...] = (1, 0)) -> EvaluationResult:
    """Returns a result of one view a video that always says 1, 0, 2, 3, 4, 5 in this order."""
    probabilities = np.array([[0.25, 0.5, 0.125, 0.0625, 0.0625, 0.0]])
    predictions = tuple(
        make_video_prediction(position, f"v{position}", label, probabilities)
        for position, label in enumerate(labels)
    )
    return EvaluationResult(
        get_protocol("center-1x1"), CLASS_NAMES, predictions, compute_metrics(predictions)
    )


def save(folder: Path, result: EvaluationResult, statistics: Statistics = "running") -> Path:
    coverage = {"asked": 3, "present": 2, "fingerprint": "0123456789ab"}
    return save_evaluation(
        folder,
        result,
        split="val",
        step=40,
        statistics=statistics,
        num_failed=1,
        coverage=coverage,
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_summary_says_what_was_measured_and_on_what(tmp_path: Path):
    path = save(tmp_path / "evaluation", make_result())
    assert path == tmp_path / "evaluation" / "center-1x1.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "protocol": "center-1x1",
        "views": 1,
        "split": "val",
        "step": 40,
        "statistics": "running",
        "clip_top1": 50.0,
        "clip_top5": 100.0,
        "video_top1": 50.0,
        "video_top5": 100.0,
        "mean_class_accuracy": 50.0,
        # Two of three videos could be read, and one of three is right.
        "video_top1_of_all": pytest.approx(100 / 3),
        "video_top5_of_all": pytest.approx(200 / 3),
        "num_videos": 2,
        "num_labelled": 2,
        "num_failed": 1,
        "coverage": {"asked": 3, "present": 2, "fingerprint": "0123456789ab"},
    }


def test_the_predictions_have_one_row_a_video(tmp_path: Path):
    save(tmp_path, make_result())
    first, second = read_rows(tmp_path / "center-1x1_predictions.csv")
    assert first == {
        "video_id": "v0",
        "label": "cooking, on campfire",
        "predicted": "cooking, on campfire",
        "correct": "true",
        "confidence": "0.500000",
        "top5": "cooking, on campfire;archery;fügen;d;e",
    }
    assert (second["label"], second["correct"]) == ("archery", "false")


def test_a_split_without_labels_has_predictions_and_null_metrics(tmp_path: Path):
    summary: dict[str, Any] = json.loads(save(tmp_path, make_result((-1, -1))).read_text())
    names = ("clip_top1", "clip_top5", "video_top1", "video_top5", "mean_class_accuracy")
    assert [summary[name] for name in names] == [None] * 5
    assert (summary["video_top1_of_all"], summary["video_top5_of_all"]) == (None, None)
    assert (summary["num_videos"], summary["num_labelled"]) == (2, 0)
    rows = read_rows(tmp_path / "center-1x1_predictions.csv")
    assert [(row["label"], row["correct"]) for row in rows] == [("", ""), ("", "")]
    assert rows[0]["predicted"] == "cooking, on campfire"


@pytest.mark.parametrize(
    ("statistics", "stem"),
    [("running", "gn-10"), ("none", "gn-10"), ("precise", "gn-10_precise")],
)
def test_only_precise_statistics_change_the_file_name(statistics: Statistics, stem: str):
    assert make_evaluation_stem("gn-10", statistics) == stem


def test_running_and_precise_evaluations_stand_side_by_side(tmp_path: Path):
    save(tmp_path, make_result(), "running")
    save(tmp_path, make_result(), "precise")
    assert list_names(tmp_path) == [
        "center-1x1.json",
        "center-1x1_precise.json",
        "center-1x1_precise_predictions.csv",
        "center-1x1_predictions.csv",
    ]


def test_an_earlier_evaluation_is_replaced(tmp_path: Path):
    save(tmp_path, make_result((0, 0, 0)))
    path = save(tmp_path, make_result((1,)))
    assert json.loads(path.read_text())["video_top1"] == 100.0
    assert len(read_rows(tmp_path / "center-1x1_predictions.csv")) == 1


def test_a_full_disk_leaves_the_earlier_evaluation_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save(tmp_path, make_result((1,)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    num_flushed = 0

    def refuse_the_second(descriptor: int) -> None:
        nonlocal num_flushed
        num_flushed += 1
        if num_flushed == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse_the_second)
    with pytest.raises(SaveFailedError, match=r"no space left while writing .*center-1x1\.json"):
        save(tmp_path, make_result((0, 0, 0)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        save(tmp_path / "taken", make_result())
