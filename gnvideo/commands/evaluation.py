"""The evaluation of a split, which `train` and `eval` share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gnvideo.build import build_prepare
from gnvideo.build.loaders import build_view_loader
from gnvideo.config import RunConfig
from gnvideo.data.coverage import format_coverage, read_coverage
from gnvideo.data.video_index import VideoIndex
from gnvideo.evaluation import (
    EvaluationResult,
    evaluate,
    get_protocol,
    save_evaluation,
    summarize_metrics,
)
from gnvideo.evaluation.results import Statistics
from gnvideo.models import VideoClassifier


class Evaluator:
    """Evaluates a model on one split under one protocol."""

    def __init__(
        self,
        config: RunConfig,
        index: VideoIndex,
        classes: tuple[str, ...],
        protocol_name: str,
        split: str | None = None,
    ) -> None:
        self._config = config
        self._index = index
        self._classes = classes
        self._protocol = get_protocol(protocol_name)
        self._split = split or config.data.val_split

    def evaluate(self, model: VideoClassifier, device: torch.device) -> EvaluationResult:
        """Returns the accuracies over all processes' videos; every process calls this."""
        return evaluate(
            model,
            build_view_loader(self._config.data, self._index, self._protocol),
            prepare=build_prepare(self._config.data),
            device=device,
            class_names=self._classes,
            protocol=self._protocol,
            num_videos=len(self._index),
            precision=self._config.training.precision,
        )

    def save(
        self, result: EvaluationResult, step: int | None, statistics: Statistics, folder: Path
    ) -> Path:
        """Writes the accuracies and predictions into `folder`; returns the JSON's path."""
        coverage = self._read_coverage()
        return save_evaluation(
            folder,
            result,
            split=self._split,
            step=step,
            statistics=statistics,
            num_failed=coverage["asked"] - coverage["present"],
            coverage=coverage,
        )

    def summarize(self, result: EvaluationResult) -> dict[str, Any]:
        """Returns what `format_metrics` needs of a result that is not saved."""
        coverage = self._read_coverage()
        return {
            "protocol": result.protocol.name,
            "split": self._split,
            "coverage": coverage,
            **summarize_metrics(result, coverage["asked"] - coverage["present"]),
        }

    def _read_coverage(self) -> dict[str, Any]:
        return read_coverage(self._config.data.root)["splits"][self._split]


def format_metrics(evaluation: Mapping[str, Any]) -> str:
    """Returns one line of an evaluation file: protocol, accuracies, and on which videos."""
    where = format_coverage(evaluation["split"], evaluation["coverage"])
    if evaluation["video_top1"] is None:
        return f"{evaluation['protocol']}: predictions without labels, {where}"
    coverage, of_all = evaluation["coverage"], ""
    if coverage["present"] < coverage["asked"] and "video_top1_of_all" in evaluation:
        of_all = f" ({evaluation['video_top1_of_all']:.2f} % of all asked)"
    return (
        f"{evaluation['protocol']}: video top-1 {evaluation['video_top1']:.2f} %{of_all},"
        f" top-5 {evaluation['video_top5']:.2f} %, clip top-1 {evaluation['clip_top1']:.2f} %"
        f" on {where}"
    )
