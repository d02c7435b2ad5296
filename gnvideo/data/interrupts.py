"""Interrupts from the keyboard, where processes are started: none lost, no process half-started."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def defer_interrupts() -> Generator[list[int]]:
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
def block_interrupts() -> Generator[None]:
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
