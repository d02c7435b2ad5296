"""The inside of a worker process: takes jobs from a pipe, one at a time, and answers each.

Its parent is `gnvideo.data.limited_process`. This module imports no torch.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import Enum
from multiprocessing.connection import Connection
from typing import Any

from gnvideo.errors import WorkFailedError

# FFmpeg allocates no more at once, so that a failed allocation means that the limit is exceeded.
_LARGEST_PIECE_BYTES = 2**31


class Answer(Enum):
    """What a worker says; each comes with one object: the result, the error, or None."""

    READY = "ready"
    RESULT = "result"
    ERROR = "error"
    OUT_OF_MEMORY = "out of memory"


def work(
    connection: Connection, function: Callable[[Any], Any], memory_limit_bytes: int | None
) -> None:
    """Answers every job that comes through `connection`, in order, until the parent closes it."""
    die_with_parent()
    connection.send((Answer.READY, None))
    while True:
        try:
            packed = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_run(function, packed, memory_limit_bytes))


def die_with_parent() -> None:
    """Makes this process end when its parent does, killed or not."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == "linux":
        import fcntl

        # The parent holds the other end of this pipe and never writes. The kernel signals its
        # end, and the signal ends the process, even where C code never returns to Python.
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    else:
        threading.Thread(target=_end_after, args=(parent.sentinel, None), daemon=True).start()
    # A worker still starting when its parent was killed must not take one of the jobs in the pipe.
    _end_after(parent.sentinel, timeout_seconds=0)


def _end_after(sentinel: int, timeout_seconds: float | None) -> None:
    if multiprocessing.connection.wait([sentinel], timeout_seconds):
        os._exit(1)


def _run(function: Callable[[Any], Any], packed: bytes, memory_limit_bytes: int | None) -> bytes:
    try:
        job = pickle.loads(packed)
        with _limit_memory(memory_limit_bytes):
            result = function(job)
        return pickle.dumps((Answer.RESULT, result))
    except MemoryError:
        return pickle.dumps((Answer.OUT_OF_MEMORY, None))
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        try:
            answer = pickle.dumps((Answer.ERROR, error))
            pickle.loads(answer)
        except Exception:
            failure = WorkFailedError(f"a worker process failed: {type(error).__name__}: {error}")
            answer = pickle.dumps((Answer.ERROR, failure))
        return answer


@contextmanager
def _limit_memory(limit_bytes: int | None) -> Generator[None]:
    """Raises MemoryError at the end, on Linux, if the block took more than the limit at a time.

    Far beyond the limit allocations fail, before the parent, which looks now and then, can know.
    They do not fail at the limit itself: FFmpeg takes a failed allocation for a broken picture,
    so a video would lose a few pictures and pass.
    """
    if limit_bytes is None or sys.platform != "linux":
        yield
        return
    import resource

    before, peak_before = _read_status("VmRSS"), _read_status("VmHWM")
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    ceiling = _read_status("VmData") + limit_bytes + _LARGEST_PIECE_BYTES
    for other in (soft, hard):
        ceiling = ceiling if other == resource.RLIM_INFINITY else min(ceiling, other)
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        peak = _read_status("VmHWM")
        # A peak that is not new belongs to an earlier job, which kept to the limit.
        if peak > peak_before and peak - before > limit_bytes:
            raise MemoryError


def _read_status(field: str) -> int:
    """Returns what the kernel says about this process's memory, in bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0
