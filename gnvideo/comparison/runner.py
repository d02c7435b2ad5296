"""Decides how the runs of a comparison are carried out: as separate processes, side by side.

What is done stays done: a finished run is kept, an interrupted or failed one is started again and
resumes by itself from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console

from gnvideo.atomic_file import write_text_atomic
from gnvideo.comparison.folder_lock import FolderLock
from gnvideo.comparison.plan import PlannedRun
from gnvideo.comparison.progress import RunObserver, make_observer
from gnvideo.comparison.run_folder import STATUS_FILE, check_same_config, read_status
from gnvideo.config import ComparisonConfig, dump_config
from gnvideo.errors import InterruptedRunsError, WorkFailedError

_POLL_SECONDS = 0.2
_REFRESH_SECONDS = 1.0
_STOP_SECONDS = 30.0
_OUTPUT_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Slot:
    """A place where one run at a time goes on.

    Attributes:
        environment: Variables that a run in this slot gets beside those of this process.
    """

    environment: Mapping[str, str]


def make_slots(
    num_runs: int, parallel_runs: int | None, gpus: Sequence[str], num_cores: int
) -> list[Slot]:
    """Returns the slots for `num_runs` runs: the cores divided among them, and one GPU each.

    Args:
        num_runs: Runs to carry out; more slots than runs are not made.
        parallel_runs: Slots wanted; None makes one a GPU, or one a core where there is no GPU.
        gpus: What CUDA_VISIBLE_DEVICES may name; slots take them in turn. Empty leaves the variable
            alone: runs on the CPU, or runs whose configuration names a device by number.
        num_cores: CPU cores of this machine.
    """
    wanted = parallel_runs or len(gpus) or num_cores
    num_slots = max(1, min(wanted, num_runs))
    threads = {"OMP_NUM_THREADS": str(max(1, num_cores // num_slots))}
    return [
        Slot({**threads, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else threads)
        for i in range(num_slots)
    ]


def run_comparison(
    config: ComparisonConfig,
    runs: Sequence[PlannedRun],
    make_command: Callable[[PlannedRun], list[str]],
    slots: Sequence[Slot],
    console: Console | None = None,
) -> dict[str, str]:
    """Carries out those of `runs` that are not finished; returns the status of each by its name.

    Before a run starts, its folder holds its `config.yaml`; what it prints goes to `output.txt`
    there. A run whose process fails keeps the reason in `status.txt`, and the others go on.

    Args:
        config: Of the comparison; saved in its folder for the report.
        runs: From `make_runs(config)`.
        make_command: Gives the command that trains and evaluates a run; it resumes by itself.
        slots: From `make_slots`; as many runs go on side by side.
        console: Where to show the progress; standard error when None.

    Raises:
        OutputError: a run folder holds another run, or another comparison writes the folder.
        InterruptedRunsError: stopped by Ctrl-C, SIGTERM or SIGHUP; the runs were stopped, too.
        WorkFailedError: a command cannot be started.
    """
    with FolderLock(config.output) as lock, _StopSignals() as stop_signals:
        for run in runs:
            check_same_config(run.folder, run.config)
        write_text_atomic(config.output / "config.yaml", dump_config(config))
        statuses = {run.name: read_status(run.folder, run.config) for run in runs}
        done = {name for name, status in statuses.items() if status == "finished"}
        waiting = [run for run in runs if run.name not in done]
        children: dict[int, _Child] = {}
        console = console or Console(stderr=True)
        try:
            with make_observer(runs, done, console) as observer:
                for child, exit_code in _work(
                    waiting, make_command, slots, lock, observer, children, stop_signals
                ):
                    status = _conclude(child.run, exit_code)
                    statuses[child.run.name] = status
                    observer.finish(child.run, status)
        finally:
            _stop(list(children.values()), stop_signals, console)
        if stop_signals.count:
            num_done = sum(status == "finished" for status in statuses.values())
            raise InterruptedRunsError(
                f"stopped with {num_done} of {len(runs)} runs finished; the same command goes on"
                " from here"
            )
    return statuses


@dataclass(frozen=True, slots=True)
class _Child:
    run: PlannedRun
    process: subprocess.Popen[bytes]


def _work(
    waiting: Sequence[PlannedRun],
    make_command: Callable[[PlannedRun], list[str]],
    slots: Sequence[Slot],
    lock: FolderLock,
    observer: RunObserver,
    children: dict[int, _Child],
    stop_signals: _StopSignals,
) -> Iterator[tuple[_Child, int]]:
    """Works off `waiting` and yields each run that ended with its exit code.

    `children` holds, by slot, what goes on: on the way out, what is left to stop.
    """
    queue = list(waiting)
    refresh_seconds = time.monotonic()
    while (queue or children) and not stop_signals.count:
        for index, slot in enumerate(slots):
            if queue and index not in children:
                run = queue.pop(0)
                children[index] = _Child(run, _start(run, make_command(run), slot, lock))
                lock.write_processes([child.process.pid for child in children.values()])
                observer.start(run)
        time.sleep(_POLL_SECONDS)
        for index, child in list(children.items()):
            exit_code = child.process.poll()
            if exit_code is not None:
                del children[index]
                yield child, exit_code
        if time.monotonic() - refresh_seconds >= _REFRESH_SECONDS:
            refresh_seconds = time.monotonic()
            observer.refresh()


def _start(
    run: PlannedRun, command: list[str], slot: Slot, lock: FolderLock
) -> subprocess.Popen[bytes]:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / STATUS_FILE).unlink(missing_ok=True)
    config_path = run.folder / "config.yaml"
    if not config_path.exists():
        write_text_atomic(config_path, dump_config(run.config))
    with (run.folder / "output.txt").open("ab") as output:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment},
                # A group of its own: Ctrl-C reaches this process alone, which then stops the
                # run together with its loader's processes.
                process_group=0,
                pass_fds=(lock.descriptor,),
            )
        except OSError as error:
            raise WorkFailedError(
                f"cannot start {command[0]!r} for run {run.name}: {error}"
            ) from None


def _conclude(run: PlannedRun, exit_code: int) -> str:
    """Returns the status of a run whose process ended, having recorded a failure."""
    status = read_status(run.folder, run.config)
    if status == "finished":
        return status
    last_line = _read_last_line(run.folder / "output.txt")
    if exit_code == 0:
        reason = f"ended with exit code 0, but {status}: the final evaluation is missing"
    elif exit_code < 0:
        killer = signal.strsignal(-exit_code) or f"signal {-exit_code}"
        reason = f"killed ({killer})" + (f" after: {last_line}" if last_line else "")
    else:
        # Not the reason in the log, which may be that of an earlier attempt.
        reason = last_line or f"exit code {exit_code}, without a message"
    status = f"failed: {' '.join(reason.split())}"
    write_text_atomic(run.folder / STATUS_FILE, status + "\n")
    return status


def _read_last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _OUTPUT_TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    # A progress bar rewrites its line by carriage returns: the last state is what was seen.
    shown = [line.rstrip("\r").split("\r")[-1].strip() for line in lines]
    return next((line for line in reversed(shown) if line), "")


def _stop(children: Sequence[_Child], stop_signals: _StopSignals, console: Console) -> None:
    """Stops the runs with all their processes: asks first, kills after a while or when urged."""
    if children:
        console.print(
            f"stopping {len(children)} runs, which may save first; Ctrl-C again ends them at once",
            soft_wrap=True,
        )
    for child in children:
        # The run alone: it saves, and its loader's processes are needed until then.
        child.process.terminate()
    num_signals = stop_signals.count
    deadline_seconds = time.monotonic() + _STOP_SECONDS
    while any(child.process.poll() is None for child in children):
        if time.monotonic() > deadline_seconds or stop_signals.count > num_signals:
            break
        time.sleep(_POLL_SECONDS)
    for child in children:
        # The group outlives its first process as long as a loader's process is in it. macOS
        # answers with PermissionError for a group of which only a zombie is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        if read_status(child.run.folder, child.run.config) != "finished":
            write_text_atomic(child.run.folder / STATUS_FILE, "interrupted\n")


class _StopSignals:
    """Counts Ctrl-C, SIGTERM and SIGHUP while it is entered, instead of ending the process.

    The loop asks for the count, so that no signal falls between a run's start and its record.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.count = 0
        self._previous: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Self:
        # Python takes signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in self._NUMBERS:
                # Under nohup a lost terminal is no reason to stop.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous.append((number, signal.signal(number, self._count)))
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous:
            signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
