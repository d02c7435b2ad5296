"""Decides what is shown while runs go on: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gnvideo.comparison.plan import PlannedRun
from gnvideo.comparison.run_folder import read_evaluation, read_events
from gnvideo.errors import InputFileError


class RunObserver(Protocol):
    """Is told what happens to the runs of a comparison; a context for as long as they go on."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def start(self, run: PlannedRun) -> None:
        """A process of `run` was started."""
        ...

    def finish(self, run: PlannedRun, status: str) -> None:
        """`run` ended with `status`."""
        ...

    def refresh(self) -> None:
        """Time has passed."""
        ...


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is: epochs done, and the last validation accuracy in percent, if any."""

    epoch: float
    clip_top1: float | None


def read_position(run: PlannedRun) -> Position:
    """Returns how far `run` is, from the end of its log."""
    epoch, accuracy = 0.0, None
    # A log being rewritten by a resume is no reason to stop a comparison.
    with contextlib.suppress(InputFileError):
        for event in read_events(run.folder, tail=True):
            epoch = event.get("epoch", epoch)
            if event.get("event") == "evaluate":
                accuracy = event.get("clip_top1")
    return Position(epoch, accuracy)


class Estimate:
    """The time left, from the epochs done since the comparison was started.

    Every run counts by its frames to decode, since all see the same number of clips.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        done: set[str],
        read_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_clock = read_clock
        self._start_seconds = read_clock()
        self._done = set(done)
        self._runs = list(runs)
        self._work_at_start = self._count_work()

    def finish(self, run: PlannedRun) -> None:
        """Counts all of `run`'s work as done, whether it finished or failed."""
        self._done.add(run.name)

    def compute_minutes_left(self) -> float | None:
        """Returns the minutes left, or None before any work was seen."""
        done = self._count_work() - self._work_at_start
        if done <= 0:
            return None
        total = sum(run.config.data.num_frames for run in self._runs)
        left = total - self._work_at_start - done
        return (self._read_clock() - self._start_seconds) * left / done / 60

    def _count_work(self) -> float:
        return sum(
            run.config.data.num_frames
            * (1.0 if run.name in self._done else min(1.0, _read_share(run)))
            for run in self._runs
        )


def _read_share(run: PlannedRun) -> float:
    return read_position(run).epoch / run.config.training.epochs


def _describe_end(run: PlannedRun, status: str) -> str:
    evaluation = read_evaluation(run.folder, run.config) if status == "finished" else None
    if evaluation is None or evaluation["video_top1"] is None:
        return status
    return f"{status}: video top-1 {evaluation['video_top1']:.1f} %"


def _describe_minutes(minutes: float | None) -> str:
    if minutes is None:
        return "time left unknown yet"
    if minutes < 1:
        return "under a minute left"
    return f"about {minutes / 60:.1f} h left" if minutes >= 90 else f"about {minutes:.0f} min left"


class PlainObserver:
    """Prints one line when a run starts and one when it ends."""

    def __init__(self, runs: Sequence[PlannedRun], done: set[str], console: Console) -> None:
        self._console = console
        self._total = len(runs)
        self._num_done = len(done)
        self._estimate = Estimate(runs, done)

    def __enter__(self) -> Self:
        self._print(f"{self._total} runs, {self._num_done} of them finished before")
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def start(self, run: PlannedRun) -> None:
        """Prints that `run` started."""
        self._print(f"{run.name} started")

    def finish(self, run: PlannedRun, status: str) -> None:
        """Prints how `run` ended, how many are done and the time left."""
        self._num_done += 1
        self._estimate.finish(run)
        left = _describe_minutes(self._estimate.compute_minutes_left())
        self._print(
            f"{run.name} {_describe_end(run, status)} ({self._num_done} of {self._total}; {left})"
        )

    def refresh(self) -> None:
        """Prints nothing."""

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveObserver:
    """Shows one line for each run that goes on, with its epoch, and the time left over all."""

    def __init__(self, runs: Sequence[PlannedRun], done: set[str], console: Console) -> None:
        self._total = len(runs)
        self._num_done = len(done)
        self._estimate = Estimate(runs, done)
        self._running: list[PlannedRun] = []
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        self.refresh()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def start(self, run: PlannedRun) -> None:
        """Adds a line for `run`."""
        self._running.append(run)
        self.refresh()

    def finish(self, run: PlannedRun, status: str) -> None:
        """Moves `run`'s line, with how it ended, above those of the runs that go on."""
        self._running.remove(run)
        self._num_done += 1
        self._estimate.finish(run)
        style = "green" if status == "finished" else "red"
        self._live.console.print(Text(f"{run.name} {_describe_end(run, status)}", style=style))
        self.refresh()

    def refresh(self) -> None:
        """Draws the lines again from the runs' logs."""
        table = Table.grid(padding=(0, 2))
        for run in self._running:
            epochs = run.config.training.epochs
            position = read_position(run)
            accuracy = "" if position.clip_top1 is None else f"top-1 {position.clip_top1:.1f} %"
            table.add_row(
                run.name,
                ProgressBar(total=epochs, completed=min(position.epoch, epochs), width=24),
                f"epoch {position.epoch:.1f} of {epochs:g}",
                accuracy,
            )
        left = _describe_minutes(self._estimate.compute_minutes_left())
        self._live.update(
            Group(table, Text(f"{self._num_done} of {self._total} runs done; {left}")),
            refresh=True,
        )


def make_observer(runs: Sequence[PlannedRun], done: set[str], console: Console) -> RunObserver:
    """Returns the observer that fits `console`: live on a terminal, plain elsewhere.

    Args:
        runs: All runs of the comparison.
        done: Names of those that were finished before.
        console: Where to show the progress.
    """
    observer_class = LiveObserver if console.is_terminal else PlainObserver
    return observer_class(runs, done, console)
