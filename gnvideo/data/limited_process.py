"""A process that works on job after job, with limits on the time and memory that each may take.

Whatever a job does to its process - hanging in C code, a segmentation fault, memory without end -
falls on that job alone: jobs run one at a time and are answered in order, so the first job without
an answer is the one to blame.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from gnvideo.data.interrupts import block_interrupts
from gnvideo.data.job_worker import Answer, work

# A forked process would share the state of the caller's threads and libraries.
_CONTEXT = multiprocessing.get_context("spawn")
_MIB = 2**20

FAILED_START = (
    "worker processes die as they start; look above for their error, and start the work from a"
    ' script that guards its entry with `if __name__ == "__main__"`'
)

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What one job may take; None: as much as it likes.

    Attributes:
        timeout_seconds: From its start to its result.
        memory_mib: Resident at a time, beyond what its process holds before. Only Linux tells;
            other systems have no such limit.
    """

    timeout_seconds: float | None = None
    memory_mib: int | None = None


NO_LIMITS = JobLimits()


@dataclass(frozen=True, slots=True)
class JobFailure:
    """A job without a result: it exceeded a limit or killed its process.

    Attributes:
        reason: The end of a sentence that begins with the job: "took longer than 300 s".
    """

    reason: str


class LimitedProcess(Generic[Job, Result]):
    """A process that runs `function` on jobs, in the order in which they were sent.

    It ends with its parent, even when that is killed.

    Args:
        function: Importable by name, as are its bound arguments; it and the jobs are pickled.
        limits: For each job.

    Attributes:
        was_ready: It started; one that ended without has not even looked at a job.
        has_ended: It takes no more jobs.
    """

    def __init__(self, function: Callable[[Job], Result], limits: JobLimits) -> None:
        self.was_ready = False
        self.has_ended = False
        self._limits = limits
        self._jobs: deque[Job] = deque()
        self._began = 0.0
        self._resident_before = 0
        memory_bytes = None if limits.memory_mib is None else limits.memory_mib * _MIB
        self._connection, its_connection = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=work, args=(its_connection, function, memory_bytes), daemon=True
        )
        with block_interrupts():
            self._process.start()
        # The process holds the only other end now, so that its death closes the pipe.
        its_connection.close()

    @property
    def num_jobs(self) -> int:
        """How many jobs were sent and have no answer yet."""
        return len(self._jobs)

    @property
    def handles(self) -> tuple[Any, Any]:
        """For `multiprocessing.connection.wait`: ready when `receive` has something to say."""
        return self._connection, self._process.sentinel

    def send(self, job: Job) -> None:
        """Sends a job, which waits in the pipe while others are under way.

        The pipe holds about 200 KB: of more, the caller waits until the process has read it.
        """
        packed = pickle.dumps(job)
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._start_clock()
        try:
            self._connection.send_bytes(packed)
        except OSError:
            # It has died, which `receive` finds out.
            return

    def receive(self) -> Generator[tuple[Job, Result | JobFailure]]:
        """Yields the jobs that were answered, and the one that ended the process, if one did.

        Does not wait.

        Raises:
            Exception: what `function` raised.
        """
        # Asked first: whatever an ended process said is in the pipe by now.
        has_exited = self._process.exitcode is not None
        try:
            while not self.has_ended and self._connection.poll():
                yield from self._read_answer(*pickle.loads(self._connection.recv_bytes()))
        except (EOFError, ConnectionResetError):
            has_exited = True
        if has_exited and not self.has_ended:
            # It may be only about to exit. The exit code of one that crashed stays.
            self._process.kill()
            self._process.join()
            yield from self._end(_describe_end(self._process.exitcode or 0))

    def enforce_limits(self) -> Generator[tuple[Job, Result | JobFailure]]:
        """Yields the job under way, its process killed, if it exceeds a limit."""
        # An answer that nobody has read yet was in time, or is treated so.
        if self.has_ended or not self.was_ready or not self._jobs or self._connection.poll():
            return
        timeout, memory = self._limits.timeout_seconds, self._limits.memory_mib
        if timeout is not None and time.monotonic() - self._began > timeout:
            yield from self._end(f"took longer than {timeout:g} s")
        elif memory is not None and self._read_resident() - self._resident_before > memory * _MIB:
            yield from self._end(self._describe_memory())

    def kill(self) -> list[Job]:
        """Ends the process at once, whatever it does, and returns the jobs without an answer."""
        self.has_ended = True
        self._process.kill()
        self._process.join()
        self._connection.close()
        unanswered = list(self._jobs)
        self._jobs.clear()
        return unanswered

    def _read_answer(
        self, answer: Answer, content: Any
    ) -> Generator[tuple[Job, Result | JobFailure]]:
        if answer is Answer.READY:
            self.was_ready = True
            self._start_clock()
        elif answer is Answer.OUT_OF_MEMORY:
            # Libraries that met a failed allocation may be in any state.
            yield from self._end(self._describe_memory())
        else:
            job = self._jobs.popleft()
            self._start_clock()
            if answer is Answer.ERROR:
                raise content
            yield job, content

    def _end(self, reason: str) -> Generator[tuple[Job, Result | JobFailure]]:
        self.has_ended = True
        self._process.kill()
        if self.was_ready and self._jobs:
            yield self._jobs.popleft(), JobFailure(reason)

    def _start_clock(self) -> None:
        """Notes time and memory at the start of the next job, or, where that is late, after it."""
        self._began = time.monotonic()
        if self._limits.memory_mib is not None:
            self._resident_before = self._read_resident()

    def _read_resident(self) -> int:
        """Returns how many bytes of memory the process occupies; 0 where that cannot be told."""
        if sys.platform != "linux":
            return 0
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            # It has ended.
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def _describe_memory(self) -> str:
        limit = self._limits.memory_mib
        return "ran out of memory" if limit is None else f"needed more than {limit} MiB of memory"


def _describe_end(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended its process with exit code {exit_code}"
    if -exit_code == signal.SIGKILL:
        return "had its process killed by SIGKILL, as happens where the system is short of memory"
    try:
        return f"crashed its process with {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"crashed its process with signal {-exit_code}"
