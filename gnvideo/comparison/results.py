"""Decides what a comparison's results are: read from the run folders, written as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gnvideo.atomic_file import write_text_atomic
from gnvideo.comparison.plan import PlannedRun, label_normalizer, list_varied_keys, make_runs
from gnvideo.comparison.run_folder import (
    flatten,
    read_evaluation,
    read_events,
    read_json,
    read_status,
)
from gnvideo.config import ComparisonConfig, RunConfig, load_config
from gnvideo.errors import InputFileError

CSV_COLUMNS: tuple[str, ...] = (
    "normalizer",
    "frames",
    "stride",
    "clips_per_batch",
    "seed",
    "status",
    "clip_top1",
    "clip_top5",
    "video_top1",
    "video_top5",
    "precise_video_top1",
    "train_clips_per_second",
    "peak_memory_mib",
    "steps",
    "run",
)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One evaluation while training, under the monitor protocol; percent."""

    epoch: float
    clip_top1: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run left.

    Attributes:
        name: Of the run folder.
        label: Of the normalizer and the settings that the grid gives it.
        config: The run's complete configuration.
        status: "finished", "failed: <reason>", "interrupted" or "not started".
        evaluation: The final evaluation's JSON (running statistics, or none in use); None unless
            the run finished.
        precise_evaluation: The one with recomputed batch statistics; None without such statistics.
        train_clips_per_second: Median over the log's speed events.
        peak_memory_mib: Largest of the speed events.
        steps: Optimizer steps done.
        curve: Ascending in epochs.
        environment: The run's environment.json; empty when it left none.
    """

    name: str
    label: str
    config: RunConfig
    status: str
    evaluation: dict[str, Any] | None
    precise_evaluation: dict[str, Any] | None
    train_clips_per_second: float | None
    peak_memory_mib: float | None
    steps: int | None
    curve: tuple[CurvePoint, ...]
    environment: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        """Whether the run's accuracies count."""
        return self.status == "finished"

    def read_metric(self, name: str, precise: bool = False) -> float | None:
        """Returns the final evaluation's `name`, in percent; None where there is none.

        Args:
            name: Such as "video_top1".
            precise: With recomputed batch statistics.
        """
        evaluation = self.precise_evaluation if precise else self.evaluation
        return None if evaluation is None else evaluation.get(name)


@dataclass(frozen=True, slots=True)
class ComparisonResults:
    """All runs of a comparison, planned or found in its folder, and how they were planned.

    Attributes:
        folder: The comparison folder.
        config: Of the comparison, as it was carried out last.
        runs: Planned runs in the order of the plan, then others found under runs/ by name.
    """

    folder: Path
    config: ComparisonConfig
    runs: tuple[RunResult, ...]

    def find_config_differences(self) -> dict[str, list[Any]]:
        """Returns the values of each setting in which runs differ though the grid does not set it.

        Empty in a fair comparison; another plan's runs in the same folder would show here.
        """
        values = _find_differences([flatten(run.config) for run in self.runs])
        varied = list_varied_keys(self.config)
        return {key: found for key, found in values.items() if key not in varied}

    def find_data_differences(self) -> dict[str, list[Any]]:
        """Returns what was evaluated where finished runs differ in it: videos, views, coverage."""
        keys = ("protocol", "split", "views", "num_videos", "num_failed", "coverage")
        evaluations = [
            {key: evaluation.get(key) for key in keys}
            for run in self.runs
            for evaluation in (run.evaluation, run.precise_evaluation)
            if evaluation is not None
        ]
        return _find_differences(evaluations)


def read_results(folder: Path) -> ComparisonResults:
    """Returns what the runs under the comparison folder `folder` left.

    Raises:
        InputFileError: `folder` is no comparison folder, or a file in it is damaged.
        ConfigError: a configuration in it is not valid.
    """
    config_path = folder / "config.yaml"
    if not (folder / "runs").is_dir() or not config_path.is_file():
        raise InputFileError(
            f"{folder} is no comparison folder: it needs config.yaml and runs/; pass the folder"
            " that 'compare' wrote"
        )
    # The folder may have been moved since.
    config = load_config(ComparisonConfig, config_path).model_copy(update={"output": folder})
    planned = make_runs(config)
    names = {run.name for run in planned}
    others: list[PlannedRun] = []
    for path in sorted(folder.glob("runs/*/config.yaml")):
        if path.parent.name not in names:
            found = load_config(RunConfig, path)
            label = label_normalizer(config, planned, found.normalizer)
            others.append(PlannedRun(path.parent.name, label, found, path.parent))
    return ComparisonResults(folder, config, tuple(_read_run(run) for run in [*planned, *others]))


def save_results(results: ComparisonResults) -> None:
    """Writes `results.csv`, one row a run, and `results.json`, everything, into the folder.

    Raises:
        OutputError: a file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_make_row(run) for run in results.runs)
    write_text_atomic(results.folder / "results.csv", text.getvalue())
    everything = {
        "config": results.config.model_dump(mode="json"),
        "config_differences": results.find_config_differences(),
        "data_differences": results.find_data_differences(),
        "runs": [
            {**_make_row(run), **asdict(run), "config": run.config.model_dump(mode="json")}
            for run in results.runs
        ],
    }
    write_text_atomic(results.folder / "results.json", json.dumps(everything, indent=2) + "\n")


def _read_run(run: PlannedRun) -> RunResult:
    config_path = run.folder / "config.yaml"
    config = load_config(RunConfig, config_path) if config_path.exists() else run.config
    events = read_events(run.folder)
    status = read_status(run.folder, config)
    is_finished = status == "finished"
    return RunResult(
        name=run.name,
        label=run.label,
        config=config,
        status=status,
        evaluation=read_evaluation(run.folder, config) if is_finished else None,
        precise_evaluation=(
            read_evaluation(run.folder, config, precise=True) if is_finished else None
        ),
        train_clips_per_second=_reduce(events, "clips_per_second", median),
        peak_memory_mib=_reduce(events, "peak_memory_mib", max),
        steps=max((event["step"] for event in events if "step" in event), default=None),
        curve=tuple(
            CurvePoint(event["epoch"], event["clip_top1"])
            for event in events
            if event.get("event") == "evaluate"
            and event.get("protocol") == config.evaluation.monitor_protocol
            and event.get("clip_top1") is not None
        ),
        environment=read_json(run.folder / "environment.json") or {},
    )


def _reduce(
    events: Sequence[Mapping[str, Any]], key: str, reduce: Callable[[list[float]], float]
) -> float | None:
    values = [event[key] for event in events if event.get("event") == "speed"]
    known = [value for value in values if value is not None]
    return reduce(known) if known else None


def _make_row(run: RunResult) -> dict[str, Any]:
    config = run.config
    row = {
        "normalizer": run.label,
        "frames": config.data.num_frames,
        "stride": config.data.stride,
        "clips_per_batch": config.training.clips_per_batch,
        "seed": config.seed,
        "status": run.status,
        "clip_top1": run.read_metric("clip_top1"),
        "clip_top5": run.read_metric("clip_top5"),
        "video_top1": run.read_metric("video_top1"),
        "video_top5": run.read_metric("video_top5"),
        "precise_video_top1": run.read_metric("video_top1", precise=True),
        "train_clips_per_second": run.train_clips_per_second,
        "peak_memory_mib": run.peak_memory_mib,
        "steps": run.steps,
        "run": run.name,
    }
    assert tuple(row) == CSV_COLUMNS
    return row


def _find_differences(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns the distinct values of every key in which `mappings` differ, in order."""
    differences: dict[str, list[Any]] = {}
    for key in mappings[0] if mappings else ():
        values: list[Any] = []
        for mapping in mappings:
            if mapping[key] not in values:
                values.append(mapping[key])
        if len(values) > 1:
            differences[key] = values
    return differences
