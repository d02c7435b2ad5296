"""Worker processes that make items one ahead of the other, and what happens when one is stuck.

By default workers are started by a fork server where the system has one, else spawned; not forked
from this process, whose threads (CUDA, OpenMP, progress bars) may hold locks that the child would
wait for without end. The fork server has imported torch before the first worker starts, so that a
worker starts in milliseconds. As always with such workers, a script needs
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch

from gnvideo.data.shared_slots import SharedSlots
from gnvideo.errors import GnvideoError, VideoError, WorkerDiedError

StartMethod = Literal["auto", "fork", "forkserver", "spawn"]

# How late a worker that is stuck is noticed at most.
_POLL_SECONDS = 1.0
_IDLE = -1

_Request = TypeVar("_Request")
_Item = TypeVar("_Item")

# Makes the item of a request; calls its second argument with the number of a video before it works
# on that video.
MakeItem = Callable[[_Request, Callable[[int], None]], _Item]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How items are made.

    Attributes:
        num_workers: Worker processes; 0 makes items in the calling thread, when they are asked for.
        prefetch: Items that are made or being made ahead; None: two a worker.
        start_method: How workers are started; "auto": see the module.
        timeout_seconds: A worker that works longer than this on one video is killed. The calling
            thread cannot be, so without workers this has no effect.

    Raises:
        ValueError: a value is out of range.
    """

    num_workers: int = 0
    prefetch: int | None = None
    start_method: StartMethod = "auto"
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.num_workers < 0 or not (self.prefetch is None or self.prefetch >= 1):
            raise ValueError(
                f"num_workers is {self.num_workers} and prefetch {self.prefetch}; they must be at"
                " least 0 and 1"
            )
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}; it must be positive")


def iterate_items(
    make_item: MakeItem[_Request, _Item],
    requests: Iterable[_Request],
    settings: WorkerSettings,
    find_path: Callable[[int], Path],
) -> Iterator[_Item]:
    """Yields the item of each of `requests`, in order; workers end with the iterator.

    Args:
        make_item: See `MakeItem`. Unless workers are forked, it is pickled, and each worker has its
            own copy; requests and items always are.
        requests: Asked for as far ahead as `settings` say.
        settings: See `WorkerSettings`.
        find_path: From the number of a video to its path, for messages.

    Raises:
        VideoError: a worker was stuck on a video.
        WorkerDiedError: a worker died.
        Exception: what `make_item` raises.
    """
    if not settings.num_workers:
        for request in requests:
            yield make_item(request, _ignore)
        return
    pool = _WorkerPool(make_item, settings, find_path)
    prefetch = settings.prefetch or 2 * settings.num_workers
    try:
        num_waiting = 0
        for request in requests:
            pool.submit(request)
            num_waiting += 1
            if num_waiting > prefetch:
                yield pool.receive()
                num_waiting -= 1
        for _ in range(num_waiting):
            yield pool.receive()
    finally:
        pool.close()


class _WorkerPool(Generic[_Request, _Item]):
    """Workers that take requests from one queue and answer each through a pipe of its own."""

    def __init__(
        self,
        make_item: MakeItem[_Request, _Item],
        settings: WorkerSettings,
        find_path: Callable[[int], Path],
    ) -> None:
        self._timeout_seconds = settings.timeout_seconds
        self._find_path = find_path
        self._num_submitted = 0
        self._num_received = 0
        self._items: dict[int, Any] = {}
        self._status = _Status(settings.num_workers)
        context = _make_context(settings.start_method)
        self._requests = context.SimpleQueue()
        self._workers: dict[Connection, BaseProcess] = {}
        for number in range(settings.num_workers):
            answers, answers_of_worker = context.Pipe(duplex=False)
            process = context.Process(  # pyright: ignore[reportAttributeAccessIssue]
                target=_work,
                args=(make_item, self._requests, answers_of_worker, self._status, number),
                daemon=True,
            )
            process.start()
            # Only the worker holds this end now, so its death ends the pipe.
            answers_of_worker.close()
            self._workers[answers] = process
        # Workers ignore the signal by which multiprocessing ends its daemons at exit, and would
        # then be waited for; this comes before.
        self._end = Finalize(self, _kill, (list(self._workers.values()),), exitpriority=10)

    def submit(self, request: _Request) -> None:
        """Gives `request` to the next worker that is free."""
        self._requests.put((self._num_submitted, request))
        self._num_submitted += 1

    def receive(self) -> _Item:
        """Returns the item of the oldest request not yet received."""
        while self._num_received not in self._items:
            self._check_stuck()
            ready = multiprocessing.connection.wait(
                list(self._workers), timeout=min(_POLL_SECONDS, self._timeout_seconds)
            )
            for answers in ready:
                assert isinstance(answers, Connection)
                try:
                    number, item = answers.recv()
                except (EOFError, ConnectionError):
                    raise self._make_death_error(answers) from None
                self._items[number] = item
        item = self._items.pop(self._num_received)
        self._num_received += 1
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends the workers at once."""
        self._end()

    def _check_stuck(self) -> None:
        now = time.monotonic()
        for number, process in enumerate(self._workers.values()):
            video, start_seconds = self._status.read(number)
            if video != _IDLE and now - start_seconds > self._timeout_seconds:
                _kill([process])
                raise VideoError(
                    f"{self._find_path(video)}: a loader process was stuck on this video for over"
                    f" {self._timeout_seconds:g} s and was killed; prepare or remove the video, or"
                    " raise data.decode_timeout_seconds"
                )

    def _make_death_error(self, answers: Connection) -> WorkerDiedError:
        process = self._workers[answers]
        video, _ = self._status.read(list(self._workers).index(answers))
        process.join()
        code = process.exitcode or 0
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with {code}"
        where = "between videos" if video == _IDLE else f"while it read {self._find_path(video)}"
        return WorkerDiedError(
            f"a loader process {cause} {where}; SIGKILL mostly means that memory ran out: lower"
            " data.num_workers; otherwise prepare or remove the video"
        )


class _Status:
    """What each worker is working on, and since when, in memory that its parent reads."""

    def __init__(self, num_workers: int) -> None:
        self._memory = SharedSlots(2 * 8 * num_workers)
        self._memory.take()
        self._open()[:, 0] = _IDLE

    def write(self, worker: int, video: int) -> None:
        row = self._open()[worker]
        # The time first: seen with the video before, it merely starts anew.
        row[1] = time.monotonic()
        row[0] = video

    def read(self, worker: int) -> tuple[int, float]:
        video, start_seconds = self._open()[worker].tolist()
        return int(video), start_seconds

    def _open(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self._memory.open(0).view(np.float64).reshape(-1, 2)


def _work(
    make_item: MakeItem[Any, Any], requests: Any, answers: Connection, status: _Status, worker: int
) -> None:
    """Answers requests until the process is killed."""
    # A cluster signals all processes of a run, a keyboard too; the parent decides what happens.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    # The garbage collector would write into each page of objects that came with the fork, and so
    # end its being shared.
    gc.freeze()
    while True:
        number, request = requests.get()
        try:
            item = make_item(request, lambda video: status.write(worker, video))
        except GnvideoError as error:
            item = error
        except Exception:
            item = RuntimeError(f"in a loader process:\n{traceback.format_exc()}")
        status.write(worker, _IDLE)
        answers.send((number, item))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _kill(processes: list[BaseProcess]) -> None:
    # They hold nothing that needs an orderly end, and one that is stuck knows no other.
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _make_context(start_method: StartMethod) -> BaseContext:
    allowed = multiprocessing.get_all_start_methods()
    if start_method == "auto":
        start_method = "forkserver" if "forkserver" in allowed else "spawn"
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload(["gnvideo.data.loader"])
    return context


def _ignore(video: int) -> None:
    pass
