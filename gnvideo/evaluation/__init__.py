"""Which views a protocol takes, what is counted, and every video counted exactly once."""

from __future__ import annotations

from gnvideo.evaluation.evaluator import evaluate, predict_videos
from gnvideo.evaluation.metrics import Metrics, VideoPrediction, compute_metrics, rank_classes
from gnvideo.evaluation.protocols import PROTOCOLS, Protocol, get_protocol
from gnvideo.evaluation.results import (
    EvaluationResult,
    make_evaluation_stem,
    save_evaluation,
    summarize_metrics,
)

__all__ = [
    "PROTOCOLS",
    "EvaluationResult",
    "Metrics",
    "Protocol",
    "VideoPrediction",
    "compute_metrics",
    "evaluate",
    "get_protocol",
    "make_evaluation_stem",
    "predict_videos",
    "rank_classes",
    "save_evaluation",
    "summarize_metrics",
]
