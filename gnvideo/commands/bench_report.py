"""What every benchmark leaves: a table on the terminal, and a JSON and a Markdown file if asked."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from gnvideo.atomic_file import write_text_atomic
from gnvideo.commands.environment import describe_environment


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of some repeated measurements."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Returns the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of texts.

    Attributes:
        title: One line.
        columns: Heads.
        rows: As many texts as there are columns in each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The outcome of a benchmark.

    Attributes:
        name: Of the benchmark.
        method: One line: what was measured, on what, how often.
        tables: For people.
        notes: Lines under the tables: what was left out, what it means, what to do.
        results: Plain values, for programs.
    """

    name: str
    method: str
    tables: tuple[ReportTable, ...]
    notes: tuple[str, ...]
    results: Mapping[str, Any]


def publish(report: BenchReport, json_path: Path | None) -> None:
    """Prints the report; with a path, also writes it there and, as Markdown, beside it.

    Raises:
        OutputError: a file cannot be written.
        SaveFailedError: writing failed half-way.
    """
    # What stands in a table may be a user's file name, which is no markup.
    console = Console(markup=False, highlight=False)
    console.print(report.method, soft_wrap=True)
    for table in report.tables:
        shown = Table(title=table.title, title_justify="left", show_edge=False)
        for number, column in enumerate(table.columns):
            # Names stay in one piece on a narrow terminal.
            shown.add_column(column, no_wrap=number == 0)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for note in report.notes:
        console.print(note, soft_wrap=True)
    if json_path is not None:
        save(report, json_path)
        console.print(f"saved {json_path} and {json_path.with_suffix('.md')}", soft_wrap=True)


def save(report: BenchReport, json_path: Path) -> None:
    """Writes the report there and, as Markdown, beside it.

    Raises:
        OutputError: a file cannot be written.
        SaveFailedError: writing failed half-way.
    """
    environment = describe_environment()
    content = {
        "benchmark": report.name,
        "method": report.method,
        "results": report.results,
        "notes": report.notes,
        "environment": environment,
    }
    write_text_atomic(json_path, json.dumps(content, indent=2) + "\n")
    write_text_atomic(json_path.with_suffix(".md"), format_markdown(report, environment))


def format_markdown(report: BenchReport, environment: Mapping[str, Any]) -> str:
    """Returns the report as a page that names the commit, the hardware and the command."""
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    parts = [f"# {report.name}", report.method]
    for table in report.tables:
        lines = [table.columns, ("---",) * len(table.columns), *table.rows]
        parts.append(table.title)
        parts.append("\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines))
    if report.notes:
        parts.append("\n".join(f"- {note}" for note in report.notes))
    parts.append(
        f"Commit {environment['commit']}; {environment['processor']},"
        f" {environment['cores']} cores, GPUs: {', '.join(environment['gpus']) or 'none'};"
        f" Python {environment['python']}, {packages}."
    )
    parts.append(f"    {shlex.join(environment['command'])}")
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
