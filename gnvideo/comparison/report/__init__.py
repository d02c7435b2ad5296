"""The report of a comparison: a page, a text, and a table for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from gnvideo.atomic_file import write_text_atomic
from gnvideo.comparison.analysis import Analysis, Series, display_name
from gnvideo.comparison.report.accuracy import (
    NO_VALUE,
    format_setting,
    format_summary,
    list_setting_columns,
)
from gnvideo.comparison.report.content import make_report
from gnvideo.comparison.report.markdown import render_markdown
from gnvideo.comparison.report.page import render_page
from gnvideo.comparison.results import ComparisonResults

__all__ = ["print_summary_table", "write_report"]


def write_report(results: ComparisonResults) -> Path:
    """Writes `report/index.html` and `report/report.md` and returns the page's path.

    Raises:
        OutputError: a file cannot be written.
    """
    report = make_report(results)
    page_path = _get_page_path(results)
    write_text_atomic(page_path, render_page(report))
    write_text_atomic(page_path.with_name("report.md"), render_markdown(report))
    return page_path


def print_summary_table(results: ComparisonResults, console: Console | None = None) -> None:
    """Prints video top-1 for each normalizer and clips per batch, and where the report is.

    Args:
        results: Of the comparison.
        console: Where to print; standard output when None.
    """
    analysis = Analysis(results)
    table = Table(title="video top-1 (%), mean ± half the 95 % interval")
    table.add_column("normalizer")
    for heading in (*list_setting_columns(analysis), "running", "precise", "seeds"):
        table.add_column(heading, justify="right")
    for setting in analysis.settings:
        for normalizer in analysis.normalizers:
            runs = analysis.list_runs(normalizer, setting)
            if runs:
                precise = Series(normalizer, precise=True)
                table.add_row(
                    display_name(normalizer),
                    *format_setting(analysis, setting),
                    format_summary(analysis.summarize(Series(normalizer), setting)),
                    format_summary(analysis.summarize(precise, setting))
                    if precise in analysis.series
                    else NO_VALUE,
                    f"{sum(run.is_finished for run in runs)} of {len(runs)}",
                )
    console = console or Console()
    console.print(table)
    console.print(f"report: {_get_page_path(results)}", markup=False, soft_wrap=True)


def _get_page_path(results: ComparisonResults) -> Path:
    return results.folder / "report" / "index.html"
