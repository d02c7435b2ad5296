"""Work spread over processes, of which any may die without taking the rest of the work along."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

from gnvideo.errors import WorkFailedError

# How long an interrupt from the keyboard may go unnoticed.
_POLL_SECONDS = 0.2

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_in_processes(
    function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int
) -> Generator[tuple[Job, Result | None]]:
    """Yields (job, function(job)) as jobs finish; None for a job that killed its process.

    When a process dies (a segmentation fault in a decoder, or the system short of memory), the jobs
    that were under way run again one at a time, which tells the one to blame; the others go on.
    Closing the generator, or an interrupt, ends the processes at once.

    Args:
        function: Importable by name, as are its bound arguments; it and the jobs are pickled.
        jobs: The work.
        num_workers: Processes, at least 1.

    Raises:
        WorkFailedError: processes cannot be started at all.
        KeyboardInterrupt: between two results, never elsewhere.
        Exception: whatever `function` raises ends the work.
    """
    waiting, suspects = deque(jobs), deque[Job]()
    with _defer_interrupts() as interrupts:
        while waiting or suspects:
            if suspects:
                lost = yield from _run_pool(function, suspects, interrupts, 1, num_queued=1)
                # Alone in its pool, so it is the one that killed it.
                for job in lost:
                    yield job, None
            else:
                # Twice as many as processes, so that none waits for its next job.
                lost = yield from _run_pool(
                    function, waiting, interrupts, num_workers, num_queued=2 * num_workers
                )
                suspects.extend(lost)


def _run_pool(
    function: Callable[[Job], Result],
    queue: deque[Job],
    interrupts: list[int],
    num_workers: int,
    num_queued: int,
) -> Generator[tuple[Job, Result | None], None, list[Job]]:
    """Takes jobs off `queue` until it is empty or a process dies; returns the lost jobs."""
    bystanders = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        num_workers,
        # A forked process would share the state of the caller's threads and libraries.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )
    under_way: dict[Future[Result], Job] = {}
    lost: list[Job] = []
    broken = False
    try:
        _check_start(executor)
        while under_way or (queue and not broken):
            while queue and not broken and len(under_way) < num_queued:
                try:
                    with _block_interrupts():
                        future = executor.submit(function, queue[0])
                except BrokenProcessPool:
                    broken = True
                else:
                    under_way[future] = queue.popleft()
            # A broken pool ends all its jobs with an error, so this does not wait for ever.
            done, _ = wait(under_way, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                job = under_way.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    broken = True
                    lost.append(job)
                else:
                    yield job, result
            if interrupts:
                raise KeyboardInterrupt
        return lost
    except BaseException:
        for process in set(multiprocessing.active_children()) - bystanders:
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _check_start(executor: ProcessPoolExecutor) -> None:
    try:
        with _block_interrupts():
            future = executor.submit(os.getpid)
        future.result()
    except BrokenProcessPool:
        raise WorkFailedError(
            "worker processes die as they start; look above for their error, and start the work"
            ' from a script that guards its entry with `if __name__ == "__main__"`'
        ) from None


@contextmanager
def _defer_interrupts() -> Generator[list[int]]:
    """Yields a list that interrupts from the keyboard fill, instead of raising wherever they come.

    Raised inside the machinery that starts processes, an interrupt can be lost or leave a process
    half-started. One that nobody raised by the end is raised then.
    """
    arrived: list[int] = []
    # Another handler, or none, is the caller's decision, and only the main thread has any.
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield arrived
        return
    signal.signal(signal.SIGINT, lambda number, frame: arrived.append(number))
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if arrived:
        raise KeyboardInterrupt


@contextmanager
def _block_interrupts() -> Generator[None]:
    """Processes that start in this block never see an interrupt; the caller gets it afterwards.

    The keyboard interrupts all processes; what becomes of the workers, their parent decides.
    """
    if sys.platform == "win32":
        yield
        return
    # Starts with the first process and lifts the block as it does; so it has to run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    # A worker still starting when its parent was killed must not take one of the jobs in the pipe.
    _die_with_parent(timeout_seconds=0)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent(timeout_seconds: float | None = None) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    if multiprocessing.connection.wait([parent.sentinel], timeout_seconds):
        os._exit(1)
