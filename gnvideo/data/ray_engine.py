"""The work of `gnvideo.data.process_pool` on a Ray cluster: the extra `cluster`.

One actor for each worker, on one CPU each, holds a process with the same limits as on one machine.
What a job does to that process falls on the job; an actor that dies with its node gives its jobs to
others. All nodes need gnvideo and see the same files under the same paths.
"""

from __future__ import annotations

import importlib
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from gnvideo.data.interrupts import defer_interrupts
from gnvideo.data.limited_process import (
    FAILED_START,
    NO_LIMITS,
    JobFailure,
    JobLimits,
    LimitedProcess,
)
from gnvideo.data.process_pool import POLL_SECONDS
from gnvideo.errors import EngineUnavailableError, WorkFailedError

# Jobs are not to blame when their node dies, unless it happens to one of them again and again.
_MAX_LOST_ACTORS = 3
# How long a cluster without a free CPU is waited for: nodes may be starting.
_PATIENCE_SECONDS = 300.0

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_on_ray(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    num_workers: int | None = None,
    limits: JobLimits = NO_LIMITS,
    address: str = "auto",
) -> Generator[tuple[Job, Result | JobFailure]]:
    """Yields (job, function(job)) as jobs finish, or (job, why it has no result).

    As `run_in_processes`, on a cluster. A job whose node dies runs again on another, so it may run
    twice at the same time: what it writes must appear all at once, as with `open_atomic`.

    Args:
        function: Importable by name on every node, as are its bound arguments.
        jobs: The work; none twice.
        num_workers: Actors, on one CPU each; None: as many as the cluster has CPUs.
        limits: For each job.
        address: Of the cluster's head, HOST:PORT; "auto": the cluster that this machine is part of.
            A process that is connected already keeps its connection.

    Raises:
        EngineUnavailableError: Ray is not installed, or there is no cluster at `address`.
        WorkFailedError: no node has a CPU for the work, or actors cannot be started.
        KeyboardInterrupt: between two results.
        Exception: whatever `function` raises ends the work.
    """
    queue = deque(jobs)
    if not queue:
        return
    ray = _import_ray()
    with defer_interrupts() as interrupts, _connect(ray, address):
        size = num_workers or max(1, int(ray.cluster_resources().get("CPU", 0)))
        crew = _Crew(ray, function, limits, min(size, len(queue)))
        try:
            while queue or crew.has_work():
                crew.deal(queue)
                yield from crew.collect(queue)
                if interrupts:
                    raise KeyboardInterrupt
        finally:
            crew.dismiss()


class _Worker(Generic[Job, Result]):
    """The actor: runs one job at a time in a process of its own."""

    def __init__(self, function: Callable[[Job], Result], limits: JobLimits) -> None:
        self._function = function
        self._limits = limits
        self._process: LimitedProcess[Job, Result] | None = None

    def start(self) -> None:
        """Returns when the actor runs."""

    def run(self, job: Job) -> tuple[Result | JobFailure | None, Exception | None]:
        """Returns the outcome of `job`, or the error that ends the work."""
        try:
            return self._run(job), None
        except Exception as error:
            return None, error

    def _run(self, job: Job) -> Result | JobFailure:
        if self._process is None or self._process.has_ended:
            self._process = LimitedProcess(self._function, self._limits)
        self._process.send(job)
        while not self._process.has_ended:
            wait(self._process.handles, POLL_SECONDS)
            for _, outcome in (*self._process.receive(), *self._process.enforce_limits()):
                return outcome
        raise WorkFailedError(FAILED_START)


@dataclass(slots=True)
class _Member(Generic[Job]):
    """An actor as the driver sees it, with its jobs in the order in which it runs them."""

    actor: Any
    started: Any
    is_running: bool = False
    under_way: deque[tuple[Any, Job]] = field(default_factory=deque[tuple[Any, Job]])

    @property
    def next_answer(self) -> Any:
        if not self.is_running:
            return self.started
        return self.under_way[0][0] if self.under_way else None


class _Crew(Generic[Job, Result]):
    """The driver's side: actors, replaced when they die, and who does what."""

    def __init__(
        self, ray: Any, function: Callable[[Job], Result], limits: JobLimits, size: int
    ) -> None:
        self._ray = ray
        self._actor_class = ray.remote(num_cpus=1)(_Worker)
        # Once in the cluster instead of once for each actor.
        self._arguments = ray.put(function), limits
        self._size = size
        self._members: list[_Member[Job]] = []
        self._losses: Counter[Job] = Counter()
        self._num_failed_starts = 0
        self._last_sign = time.monotonic()

    def has_work(self) -> bool:
        """Returns whether jobs are under way."""
        return any(member.under_way for member in self._members)

    def deal(self, queue: deque[Job]) -> None:
        """Takes jobs off `queue` for actors that run; starts actors that are missing."""
        while len(self._members) < self._size:
            # Waits, without a limit, for a CPU: of a node that comes back, for example.
            actor = self._actor_class.remote(*self._arguments)
            self._members.append(_Member(actor, actor.start.remote()))
        running = [member for member in self._members if member.is_running]
        for member in running:
            if queue and not member.under_way:
                self._send(member, queue.popleft())
        for member in running:
            # One more, as on one machine.
            if len(queue) >= self._size and len(member.under_way) == 1:
                self._send(member, queue.popleft())

    def collect(self, queue: deque[Job]) -> Generator[tuple[Job, Result | JobFailure]]:
        """Waits a moment and yields what came; jobs of actors that died go back to `queue`."""
        member_of_answer = {
            member.next_answer: member for member in self._members if member.next_answer
        }
        done, _ = self._ray.wait(list(member_of_answer), timeout=POLL_SECONDS)
        for answer in done:
            member = member_of_answer[answer]
            try:
                content = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                yield from self._remove(member, queue, error)
                continue
            self._last_sign = time.monotonic()
            if not member.is_running:
                member.is_running = True
                self._num_failed_starts = 0
                continue
            _, job = member.under_way.popleft()
            outcome, error = content
            if error is not None:
                raise error
            yield job, outcome
        if any(member.is_running for member in self._members):
            return
        if time.monotonic() - self._last_sign > _PATIENCE_SECONDS:
            raise WorkFailedError(
                f"no node of the Ray cluster had a free CPU for {_PATIENCE_SECONDS:g} s; add nodes,"
                " or end other work, and run the same command again"
            )

    def dismiss(self) -> None:
        """Ends all actors, whatever they do."""
        for member in self._members:
            self._ray.kill(member.actor)

    def _send(self, member: _Member[Job], job: Job) -> None:
        member.under_way.append((member.actor.run.remote(job), job))

    def _remove(
        self, member: _Member[Job], queue: deque[Job], error: Exception
    ) -> Generator[tuple[Job, JobFailure]]:
        """Gives the jobs of an actor that died to others, unless the first loses all its actors."""
        self._members.remove(member)
        # It may be alive on the far side of a network that failed.
        self._ray.kill(member.actor)
        if not member.is_running:
            self._num_failed_starts += 1
            if self._num_failed_starts >= _MAX_LOST_ACTORS:
                reason = str(error).strip().splitlines()[-1]
                raise WorkFailedError(f"actors on the Ray cluster do not start: {reason}")
        import sys

        print("LOST", len(member.under_way), len(queue), file=sys.stderr)
        jobs = [job for _, job in member.under_way]
        if jobs:
            self._losses[jobs[0]] += 1
            if self._losses[jobs[0]] >= _MAX_LOST_ACTORS:
                reason = f"lost the Ray actor that worked on it {_MAX_LOST_ACTORS} times"
                yield jobs.pop(0), JobFailure(reason)
        queue.extendleft(reversed(jobs))


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise EngineUnavailableError(
            f"the engine ray does not import here ({error}); pip install gnvideo[cluster]"
        ) from error


def _check_address(address: str) -> None:
    """Raises OSError or ValueError where nothing listens, which Ray tries to reach for minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        raise ValueError("an address has the form HOST:PORT")
    socket.create_connection((parts.hostname, parts.port), timeout=10).close()


@contextmanager
def _connect(ray: Any, address: str) -> Generator[None]:
    if ray.is_initialized():
        yield
        return
    try:
        if address != "auto":
            _check_address(address)
        # What workers print would break the progress bar.
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise EngineUnavailableError(
            f"no Ray cluster at {address!r}: {reason}; start one with `ray start --head`, or pass"
            " the HOST:PORT of its head"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
