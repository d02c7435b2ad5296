"""A comparison folder written by hand: what training would leave, with accuracies from a rule."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnvideo.comparison import PlannedRun, make_runs
from gnvideo.config import ComparisonConfig, dump_config, make_config

ComparisonMaker = Callable[..., ComparisonConfig]
FolderWriter = Callable[[ComparisonConfig], list[PlannedRun]]
RunWriter = Callable[..., None]

WITH_RUNNING_STATISTICS = (
    *("batch", "sync_batch", "sub_batch", "batch_renorm", "moving_average_batch"),
    *("batch_channel", "switchable"),
)
# What one clip per batch costs, in points, where it is not the usual.
LOSSES = {
    "batch": 14.0,
    "sync_batch": 14.0,
    "frozen_batch": 20.0,
    "sub_batch": 18.0,
    "batch_renorm": 9.0,
    "moving_average_batch": 6.0,
    "instance": 5.0,
    "weight_norm": 11.0,
}
COVERAGE = {
    "asked": 210,
    "present": 200,
    "missing": 7,
    "unreadable": 3,
    "fingerprint": "0f3a5c7e9b1d",
}


def compute_accuracy(normalizer: str, clips: int, seed: int) -> float:
    """Returns an accuracy that falls with the clips for BatchNorm and less for all others."""
    noise = random.Random(f"{normalizer} {clips} {seed}").gauss(0, 1.1)
    loss = LOSSES.get(normalizer, 1.2) / clips
    return round(2 * (71 + (0.6 if normalizer == "batch" else 0) - loss + noise)) / 2


@pytest.fixture
def make_comparison(tmp_path: Path) -> ComparisonMaker:
    def make(*overrides: str, **base: Any) -> ComparisonConfig:
        values = {
            "output": str(tmp_path / "comparison"),
            "grid": {
                "normalizers": ["batch", "group"],
                "clips_per_batch": [8, 1],
                "seeds": [0, 1, 2],
            },
            "base": {
                "model": {"name": "resnet3d_18", "width": 16},
                "data": {"root": "data/kinetics", "num_frames": 8, "stride": 2},
                "training": {"epochs": 10.0, "step_epochs": [5.0], "learning_rate": 0.02},
                **base,
            },
        }
        return make_config(ComparisonConfig, values, overrides)

    return make


def make_evaluation(run: PlannedRun, accuracy: float, statistics: str) -> dict[str, Any]:
    return {
        "protocol": run.config.evaluation.protocol,
        "views": 10,
        "split": "val",
        "step": 400,
        "statistics": statistics,
        "clip_top1": accuracy - 6,
        "clip_top5": accuracy + 12,
        "video_top1": accuracy,
        "video_top5": accuracy + 19,
        "mean_class_accuracy": accuracy - 1,
        "num_videos": 200,
        "num_labelled": 200,
        "num_failed": 10,
        "coverage": COVERAGE,
    }


def write_run_folder(
    run: PlannedRun,
    *,
    accuracy: float | None = None,
    coverage: dict[str, Any] | None = None,
    num_epochs: int = 10,
    is_done: bool = True,
) -> None:
    """Writes the run folder of `run`, complete or as an interruption leaves it."""
    normalizer = run.config.normalizer.name
    clips = run.config.training.clips_per_batch
    if accuracy is None:
        accuracy = compute_accuracy(run.label, clips, run.config.seed)
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(dump_config(run.config))
    (run.folder / "environment.json").write_text(
        json.dumps({"gnvideo": "0.1.0", "python": "3.11.9", "torch": "2.11.0", "device": "cpu"})
    )
    noise = random.Random(run.name)
    events: list[dict[str, Any]] = [{"event": "start", "step": 0}]
    for epoch in range(1, num_epochs + 1):
        curve = accuracy - 6 - 55 * math.exp(-epoch / 2.5) + noise.gauss(0, 0.8)
        step = 320 // clips * epoch
        events += [
            {"event": "train", "step": step, "epoch": float(epoch), "clips": 8, "loss": 1.0},
            {
                "event": "speed",
                "step": step,
                "clips_per_second": 20.0 + clips + epoch % 3,
                "peak_memory_mib": 900.0 + 310 * clips,
            },
            {
                "event": "evaluate",
                "step": step,
                "epoch": float(epoch),
                "protocol": run.config.evaluation.monitor_protocol,
                "clip_top1": curve,
                "video_top1": curve,
            },
        ]
    if is_done:
        events.append({"event": "end", "step": 320 // clips * num_epochs})
        has_statistics = normalizer in WITH_RUNNING_STATISTICS
        records = {
            run.config.evaluation.protocol: make_evaluation(
                run, accuracy, "running" if has_statistics else "none"
            )
        }
        if has_statistics:
            records[f"{run.config.evaluation.protocol}_precise"] = make_evaluation(
                run, accuracy + 2 / clips, "precise"
            )
        (run.folder / "evaluation").mkdir(exist_ok=True)
        for stem, record in records.items():
            if coverage is not None:
                record["coverage"] = coverage
            (run.folder / "evaluation" / f"{stem}.json").write_text(json.dumps(record))
    text = "".join(json.dumps(event) + "\n" for event in events)
    (run.folder / "log.jsonl").write_text(text)


@pytest.fixture
def write_run() -> RunWriter:
    return write_run_folder


@pytest.fixture
def write_comparison() -> FolderWriter:
    """Writes all runs of a comparison as finished, and the comparison's configuration."""

    def write(config: ComparisonConfig) -> list[PlannedRun]:
        runs = make_runs(config)
        for run in runs:
            write_run_folder(run)
        (config.output / "config.yaml").write_text(dump_config(config))
        return runs

    return write
