"""How far a long piece of work is: a bar on a terminal, plain lines in a log.

Both say how many are done a second and how long the rest will take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def show_progress(unit: str, file: TextIO = sys.stderr) -> Generator[Callable[[int, int], None]]:
    """Yields a function of (done, total) that shows how far the work is, with an estimate.

    Args:
        unit: What is counted, in the plural.
        file: A terminal gets a bar; anything else a line every few seconds and one at the end.
    """
    if file.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(file=file)) as progress:
            task = progress.add_task(unit, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
        return
    began = last_line = time.monotonic()

    def print_line(done: int, total: int) -> None:
        nonlocal last_line
        now = time.monotonic()
        if done == 0 or (done < total and now - last_line < _SECONDS_BETWEEN_LINES):
            return
        last_line = now
        rate = done / max(now - began, 1e-9)
        left = (total - done) / rate
        print(
            f"{done}/{total} {unit}, {rate:.1f} a second, about {_format_seconds(left)} left",
            file=file,
            flush=True,
        )

    yield print_line


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Returns how many are done a second, of late; for finished work on average."""
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:.1f}/s")


def _format_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d} min"
