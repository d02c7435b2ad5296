"""Comparisons: a grid of runs carried out side by side, its statistics and its report."""

from __future__ import annotations

from gnvideo.comparison.plan import PlannedRun, make_runs
from gnvideo.comparison.report import print_summary_table, write_report
from gnvideo.comparison.results import ComparisonResults, RunResult, read_results, save_results
from gnvideo.comparison.runner import Slot, make_slots, run_comparison

__all__ = [
    "ComparisonResults",
    "PlannedRun",
    "RunResult",
    "Slot",
    "make_runs",
    "make_slots",
    "print_summary_table",
    "read_results",
    "run_comparison",
    "save_results",
    "write_report",
]
