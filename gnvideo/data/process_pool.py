"""Work spread over processes, of which any may die without taking the rest of the work along."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import wait
from typing import TypeVar

from gnvideo.data.interrupts import defer_interrupts
from gnvideo.data.limited_process import (
    FAILED_START,
    NO_LIMITS,
    JobFailure,
    JobLimits,
    LimitedProcess,
)
from gnvideo.errors import WorkFailedError

# How long an interrupt from the keyboard, or a limit that is exceeded, may go unnoticed: a process
# can take some hundred MiB meanwhile.
POLL_SECONDS = 0.05
_MAX_FAILED_STARTS = 3

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_in_processes(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    num_workers: int,
    limits: JobLimits = NO_LIMITS,
) -> Generator[tuple[Job, Result | JobFailure]]:
    """Yields (job, function(job)) as jobs finish, or (job, why it has no result).

    A job that hangs, takes too much memory or kills its process is the only one lost: a new process
    takes the place of its own. Closing the generator, an interrupt, or the death of this process,
    however it comes, ends the processes at once.

    Args:
        function: Importable by name, as are its bound arguments; it and the jobs are pickled.
        jobs: The work.
        num_workers: Processes, at least 1.
        limits: For each job.

    Raises:
        WorkFailedError: processes cannot be started at all.
        KeyboardInterrupt: between two results, never elsewhere.
        Exception: whatever `function` raises ends the work.
    """
    queue = deque(jobs)
    crew: list[LimitedProcess[Job, Result]] = []
    num_failed_starts = 0
    next_look = 0.0
    with defer_interrupts() as interrupts:
        try:
            while queue or any(process.num_jobs for process in crew):
                num_idle = sum(not process.num_jobs for process in crew)
                for _ in range(min(num_workers - len(crew), len(queue) - num_idle)):
                    crew.append(LimitedProcess(function, limits))
                _deal(queue, crew, num_workers)

                ready = set(wait([each for one in crew for each in one.handles], POLL_SECONDS))
                for process in crew:
                    if ready.intersection(process.handles):
                        yield from process.receive()
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + POLL_SECONDS
                    for process in crew:
                        yield from process.enforce_limits()
                if interrupts:
                    raise KeyboardInterrupt

                for process in [process for process in crew if process.has_ended]:
                    crew.remove(process)
                    queue.extendleft(reversed(process.kill()))
                    num_failed_starts = 0 if process.was_ready else num_failed_starts + 1
                if num_failed_starts >= _MAX_FAILED_STARTS:
                    raise WorkFailedError(FAILED_START)
        finally:
            for process in crew:
                process.kill()


def _deal(queue: deque[Job], crew: list[LimitedProcess[Job, Result]], num_workers: int) -> None:
    for process in crew:
        if queue and not process.num_jobs:
            process.send(queue.popleft())
    for process in crew:
        # One more, so that no process waits for its next job; but not near the end, where it might
        # wait behind a long one while other processes have nothing to do.
        if len(queue) >= num_workers and process.num_jobs == 1:
            process.send(queue.popleft())
