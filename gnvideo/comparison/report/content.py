"""Decides what stands in a report and in which order, and what a reader is warned of."""

from __future__ import annotations

from typing import Any

from gnvideo.comparison.analysis import Analysis
from gnvideo.comparison.finding import compose_finding, describe_most_clips, describe_precise
from gnvideo.comparison.report.accuracy import (
    make_accuracy_section,
    make_difference_section,
)
from gnvideo.comparison.report.blocks import Report
from gnvideo.comparison.report.curves import make_curve_section
from gnvideo.comparison.report.method import (
    make_cost_section,
    make_method_section,
    make_reproduction_section,
    make_run_section,
)
from gnvideo.comparison.report.paper import make_paper_sections
from gnvideo.comparison.results import ComparisonResults


def make_report(results: ComparisonResults) -> Report:
    """Returns the report of a comparison."""
    analysis = Analysis(results)
    return Report(
        finding=compose_finding(analysis),
        summary=_summarize(results),
        lede=_make_lede(analysis),
        warnings=_list_warnings(results),
        sections=(
            make_accuracy_section(analysis),
            make_difference_section(analysis),
            make_curve_section(analysis),
            *make_paper_sections(analysis),
            make_cost_section(analysis),
            make_method_section(analysis),
            make_run_section(analysis),
            make_reproduction_section(analysis),
        ),
    )


def _summarize(results: ComparisonResults) -> list[str]:
    config = results.runs[0].config
    finished = [run for run in results.runs if run.is_finished]
    summary = [
        f"{len(finished)} of {len(results.runs)} runs finished",
        f"{config.model.name}, width {config.model.width}",
        f"{config.training.epochs:g} epochs",
        f"protocol {config.evaluation.protocol}",
    ]
    if finished and finished[0].evaluation is not None:
        summary.append(f"{finished[0].evaluation['num_videos']:,} videos evaluated")
    return summary


def _make_lede(analysis: Analysis) -> str:
    lede = (
        "Differences are in video top-1 accuracy, paired by seed"
        f" ({len(analysis.results.config.grid.seeds)} planned)."
    )
    more = (describe_most_clips(analysis), describe_precise(analysis))
    return " ".join([lede, *filter(None, more)])


def _list_warnings(results: ComparisonResults) -> list[str]:
    warnings = [
        f"The runs were not evaluated on the same data: {key} differs ({_join(values)}). Their"
        " accuracies cannot be compared."
        for key, values in results.find_data_differences().items()
    ]
    warnings += [
        f"The runs differ in {key} ({_join(values)}), which this comparison does not vary. Their"
        " differences are not those of the normalizers alone."
        for key, values in results.find_config_differences().items()
    ]
    failed = [run for run in results.runs if run.status.startswith("failed")]
    if failed:
        names = ", ".join(f"{run.name} ({run.status})" for run in failed)
        warnings.append(
            f"{len(failed)} of {len(results.runs)} runs failed and are in no mean: {names}."
        )
    unfinished = [run for run in results.runs if run.status in ("interrupted", "not started")]
    if unfinished:
        warnings.append(
            f"The comparison is not complete: {len(unfinished)} of {len(results.runs)} runs are"
            " still to be done."
        )
    return warnings


def _join(values: list[Any]) -> str:
    return "; ".join(str(value) for value in values)
