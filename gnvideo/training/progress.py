"""What a person sees while training: a bar with an estimate on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Shows a run's progress on standard error; use it as a context manager."""

    def __init__(self, *, total_steps: int, start_step: int, enabled: bool) -> None:
        """Shows nothing before it is entered.

        Args:
            total_steps: Of the run.
            start_step: Steps already taken.
            enabled: False shows nothing at all.
        """
        self._console = Console(stderr=True, quiet=not enabled)
        self._total_steps = total_steps
        self._start_step = start_step
        self._start_seconds = time.monotonic()
        self._text = ""
        self._bar = Progress(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=total_steps, completed=start_step)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        self._bar.update(self._task, completed=step)

    def report(self, step: int, text: str) -> None:
        """Shows the numbers of `step`: beside the bar, or as a line with an estimate."""
        if self._console.is_terminal:
            self._bar.update(self._task, description=text)
            return
        elapsed_seconds = time.monotonic() - self._start_seconds
        left = elapsed_seconds * (self._total_steps - step) / max(step - self._start_step, 1)
        self._print(f"step {step}/{self._total_steps}  {text}  {_format_duration(left)} left")

    def announce(self, text: str) -> None:
        """Shows a line that stays, such as the result of an evaluation."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
