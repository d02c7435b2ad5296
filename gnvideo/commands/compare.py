"""`compare` and `report`: a grid of runs side by side, and what came of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gnvideo.build import (
    build_initialized_model,
    build_model,
    build_run_data,
    check_activation_memory,
    check_normalizer,
    load_initial_weights,
)
from gnvideo.comparison import (
    ComparisonResults,
    PlannedRun,
    make_runs,
    make_slots,
    print_summary_table,
    read_results,
    run_comparison,
    save_results,
    write_report,
)
from gnvideo.config import ComparisonConfig, load_config
from gnvideo.errors import InterruptedRunsError
from gnvideo.evaluation import get_protocol


def run_compare(path: Path, overrides: Sequence[str]) -> None:
    """Carries out the runs that are missing, then writes results and report.

    Raises:
        InterruptedRunsError: a run failed; the report is written and lists it.
    """
    config = load_config(ComparisonConfig, path, overrides)
    for normalizer in config.grid.normalizers:
        check_normalizer(normalizer.name, normalizer.list_settings())
    runs = make_runs(config)
    for protocol in (
        runs[0].config.evaluation.protocol,
        runs[0].config.evaluation.monitor_protocol,
    ):
        get_protocol(protocol)
    # What would fail every run alike, or every run of a normalizer, fails here, before any of them
    # starts.
    data = build_run_data(runs[0].config.data)
    networks = {(run.config.normalizer, run.config.data): run.config for run in runs}
    for network in networks.values():
        check_activation_memory(network)
        if network.training.initial_weights is not None:
            model = build_initialized_model(network, len(data.classes))
            load_initial_weights(network, model, data.classes)
            continue
        with torch.device("meta"):
            build_model(network.model, network.normalizer, network.data, len(data.classes))
    slots = make_slots(len(runs), config.parallel_runs, _find_gpus(runs[0]), _count_cores())
    statuses = run_comparison(config, runs, _make_command, slots)
    _report(read_results(config.output))
    failed = {name: status for name, status in statuses.items() if status.startswith("failed")}
    if failed:
        name, status = next(iter(failed.items()))
        raise InterruptedRunsError(
            f"{len(failed)} of {len(runs)} runs failed, the first is {name} ({status}); see its"
            f" output.txt in {config.output / 'runs' / name}, then run the same command again"
        )


def run_report(folder: Path) -> None:
    """Writes results and report again from what the runs of a comparison left."""
    _report(read_results(folder))


def _report(results: ComparisonResults) -> None:
    save_results(results)
    write_report(results)
    print_summary_table(results)


def _make_command(run: PlannedRun) -> list[str]:
    return [sys.executable, "-m", "gnvideo", "train", str(run.folder / "config.yaml")]


def _find_gpus(run: PlannedRun) -> list[str]:
    """Returns the GPUs to share out; none where the runs are on the CPU or name their own."""
    if run.config.training.device not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
