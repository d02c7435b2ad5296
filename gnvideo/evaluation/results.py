"""What an evaluation leaves on disk: one JSON of accuracies and one CSV line for each video."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from gnvideo.atomic_file import open_atomic
from gnvideo.evaluation.metrics import (
    TOP_K,
    UNLABELLED,
    Metrics,
    VideoPrediction,
    rank_classes,
)
from gnvideo.evaluation.protocols import Protocol

Statistics = Literal["running", "precise", "none"]
"""Where batch statistics came from: kept while training, recomputed after it, or not in use."""

CSV_COLUMNS = ("video_id", "label", "predicted", "correct", "confidence", "top5")


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The outcome of one protocol over one split.

    Attributes:
        protocol: Which views were scored.
        class_names: By class index.
        predictions: One for each video, by position.
        metrics: Over the labelled videos; None where no video has a label.
    """

    protocol: Protocol
    class_names: tuple[str, ...]
    predictions: tuple[VideoPrediction, ...]
    metrics: Metrics | None

    @property
    def num_labelled(self) -> int:
        """Videos that have a label, which are those that the metrics count."""
        return sum(prediction.label != UNLABELLED for prediction in self.predictions)


def summarize_metrics(result: EvaluationResult, num_failed: int) -> dict[str, float | None]:
    """Returns the metrics by name, None without labels, and video accuracy of all videos asked for.

    The latter, `video_top1_of_all` and `video_top5_of_all`, count the `num_failed` videos of the
    split that are missing or unreadable as wrong, so they do not rise when hard videos are lost.
    """
    metrics: dict[str, float | None] = dict.fromkeys(field.name for field in fields(Metrics))
    metrics |= {"video_top1_of_all": None, "video_top5_of_all": None}
    if result.metrics is not None:
        share = result.num_labelled / (result.num_labelled + num_failed)
        metrics |= asdict(result.metrics)
        metrics["video_top1_of_all"] = share * result.metrics.video_top1
        metrics["video_top5_of_all"] = share * result.metrics.video_top5
    return metrics


def make_evaluation_stem(protocol_name: str, statistics: Statistics) -> str:
    """Returns the file name, without extension, of an evaluation: `<protocol>[_precise]`."""
    return f"{protocol_name}_precise" if statistics == "precise" else protocol_name


def save_evaluation(
    folder: Path,
    result: EvaluationResult,
    *,
    split: str,
    step: int | None,
    statistics: Statistics,
    num_failed: int,
    coverage: Mapping[str, Any],
) -> Path:
    """Writes `<stem>.json` and `<stem>_predictions.csv` and returns the JSON's path.

    Both are complete before either replaces a file of its name. Under torch.distributed one process
    alone writes.

    Args:
        folder: Made if it is missing.
        result: What to write.
        split: Name of the split.
        step: Optimizer steps of the weights; None where they come from elsewhere.
        statistics: "precise" adds `_precise` to the stem, so that both kinds can stand together.
        num_failed: Videos of the split that are not counted because they are missing or unreadable.
        coverage: Which part of the data set the split holds, as the prepared data states it.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way, for example because the disk is full.
    """
    summary = {
        "protocol": result.protocol.name,
        "views": result.protocol.num_views,
        "split": split,
        "step": step,
        "statistics": statistics,
        **summarize_metrics(result, num_failed),
        "num_videos": len(result.predictions),
        "num_labelled": result.num_labelled,
        "num_failed": num_failed,
        "coverage": dict(coverage),
    }
    stem = make_evaluation_stem(result.protocol.name, statistics)
    summary_path = folder / f"{stem}.json"
    _replace_files(
        {
            folder / f"{stem}_predictions.csv": _format_predictions(result),
            summary_path: json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        }
    )
    return summary_path


def _format_predictions(result: EvaluationResult) -> str:
    """Returns the CSV text; `correct` is true or false, and empty like `label` without a label."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for prediction in result.predictions:
        ranking_K = rank_classes(prediction.probabilities[None])[0]
        predicted = int(ranking_K[0])
        has_label = prediction.label != UNLABELLED
        writer.writerow(
            (
                prediction.video_id,
                result.class_names[prediction.label] if has_label else "",
                result.class_names[predicted],
                str(predicted == prediction.label).lower() if has_label else "",
                f"{prediction.probabilities[predicted]:.6f}",
                ";".join(result.class_names[int(index)] for index in ranking_K[:TOP_K]),
            )
        )
    return text.getvalue()


def _replace_files(contents: Mapping[Path, str]) -> None:
    """Writes every text beside its path and only then gives each its name."""
    with ExitStack() as stack:
        for path, content in contents.items():
            file = stack.enter_context(open_atomic(path))
            file.write(content.encode())
            # A full disk shows now, before any file has its name.
            file.flush()
            os.fsync(file.fileno())
