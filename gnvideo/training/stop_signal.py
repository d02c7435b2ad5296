"""SIGTERM, by which clusters take a machine back, as a wish that the loop reads after a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def catch_sigterm() -> Generator[threading.Event]:
    """Yields an event that SIGTERM sets instead of ending the process; afterwards it ends it again.

    Python lets only the main thread catch signals; elsewhere the event is never set.
    """
    stop_signal = threading.Event()

    def set_event(number: int, frame: FrameType | None) -> None:
        stop_signal.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop_signal
        return
    earlier_handler = signal.signal(signal.SIGTERM, set_event)
    try:
        yield stop_signal
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)
